"""Checks, builds and inspects corpora.

  python -m clipvip_jax.data_tool check NAME|MANIFEST.jsonl [--raw_dir=PATH] [--decode=50]
  python -m clipvip_jax.data_tool build NAME|MANIFEST.jsonl --data_dir=DIR [--raw_dir=PATH] [--workers=N]
  python -m clipvip_jax.data_tool add-captions NAME FILES... --data_dir=DIR [--name=NAME]
  python -m clipvip_jax.data_tool show NAME --data_dir=DIR --html=FILE [--split=train] [--count=20]
  python -m clipvip_jax.data_tool throughput NAME --data_dir=DIR [--split=train] [--workers=N]

NAME is a folder of data/; a MANIFEST is read by data/video_manifest. Each subcommand has its own --help.
Exit codes: 0 success; 2 bad input, or `check` found that a build would fail.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from clipvip_jax.input_pipeline.preprocessing import PIXELS
from clipvip_jax.utils import storage
from clipvip_jax.utils.bucket_copies import uploaded_file
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import expand_user
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  from clipvip_jax.data.engine.builder import CorpusBuilder
  from clipvip_jax.input_pipeline.corpus import Corpus

_T = TypeVar("_T")
_MANIFEST_CORPUS = "video_manifest"
_ADD = "add-captions"
_DESCRIPTIONS = {
  "check": "Dry run of a build: reads annotations, looks for videos and decodes a random sample. Writes nothing.",
  "build": "Builds a corpus. Resumes an interrupted build; checks the annotations if the corpus exists.",
  _ADD: "Writes a new edition of a built corpus with other captions, without decoding.",
  "show": "Writes a page with sample clips of a built corpus.",
  "throughput": "Measures how many clips per second the input pipeline reads from a built corpus.",
}
_FIELDS_HELP = """

--FIELD=VALUE sets any other field of the configuration, for example --fps=3, --fps=0 --frames=32, --short_side=224
or --decoder=MODULE:FUNCTION. The corpus then has another name, derived from the fields unless --name is set."""
# Fields of clipvip_jax.data.engine.corpus_config.BuildOptions.
_BUILD_FLAGS = {
  "raw_dir": "folder of the original files; default: DATA_DIR/downloads/manual/NAME",
  "check_sizes": "whether splits must have their official sizes, true or false; default: true",
  "decode_timeout": "seconds after which a clip that is still being decoded is skipped; default: 120",
  "max_skipped": "accepted fraction of skipped clips in each split; default: 0.05",
  "captions": "captions written by clipvip_jax.caption: a file, folder or glob pattern",
  "max_missing_text": "accepted fraction of clips without a subtitle or caption, where files hold these; default: 0.5",
  "clips_per_shard": "clips per shard; default: depends on the size of the split",
}
_DECODE_HELP = "clips to decode, drawn at random from each split; -1: all; default: 50"
_LIMITS = (
  ("num_frames", 1, 10_000),
  ("count", 1, 10_000),
  ("seed", 0, 2**63 - 1),
  ("image_size", 1, 4096),
  ("batch_size", 1, 65_536),
  ("workers", 0, 1024),
)


def main(argv: Sequence[str] | None = None) -> None:
  """Parses flags and runs a subcommand."""
  options, extra = _parser().parse_known_args(argv)
  invalid = [flag for flag in extra if not (flag.startswith("--") and "=" in flag)]
  if invalid:
    raise UserError(f"unexpected argument {invalid[0]!r}; set fields with --NAME=VALUE, see --help")
  fields = dict(flag[2:].split("=", 1) for flag in extra)
  if options.command in (_ADD, "show", "throughput") and fields:
    raise UserError(f"unknown option --{next(iter(fields))}; see --help")
  run = {"check": _check, "build": _build, _ADD: _add_captions, "show": _show, "throughput": _throughput}
  run[options.command](options, fields)


def _parser() -> Parser:
  parser = Parser(__doc__)
  subparsers = parser.add_subparsers(dest="command", required=True, parser_class=_SubParser)
  for name, description in _DESCRIPTIONS.items():
    builds = name in ("check", "build")
    command = subparsers.add_parser(name, help=description, description=description + (_FIELDS_HELP if builds else ""))
    command.add_argument("corpus", metavar="NAME|MANIFEST" if builds else "NAME", help="the corpus")
    command.add_argument("--config", default="", help="configuration of the corpus; default: the first")
    command.add_argument("--data_dir", default="", help="dataset directory; default: that of TFDS")
    if builds:
      command.add_argument(
        "--name", default="", help="configuration to write; default: --config and the changed fields"
      )
      for flag, text in _BUILD_FLAGS.items():
        command.add_argument(f"--{flag}", help=text)
    elif name == _ADD:
      command.add_argument("captions", metavar="FILES", nargs="+", help="captions: files, folders or glob patterns")
      command.add_argument("--name", default="", help="configuration to write; default: CONFIG+captions")
    else:
      command.add_argument("--split", default="train", help="split of the corpus; default: train")
      command.add_argument("--num_frames", type=int, default=12, help="frames sampled from each clip; default: 12")
      command.add_argument("--cache_dir", default="", help="local folder for files of a corpus on gs:// or s3://")
      command.add_argument("--cache_gb", type=float, default=100.0, help="limit of the cache in GB; default: 100")
    if name in ("build", "throughput"):
      command.add_argument("--workers", type=int, default=None, help="number of processes; default: one per core")
    if name == "check":
      command.add_argument("--decode", type=int, default=50, help=_DECODE_HELP)
    if name == "build":
      command.add_argument(
        "--runner", default="", help="Apache Beam runner, such as SparkRunner; default: this machine"
      )
      command.add_argument("--beam_options", default="", help="options of the runner: NAME=VALUE,...")
    if name == "show":
      command.add_argument("--html", type=path_argument("--html"), required=True, help="HTML file to write")
      command.add_argument("--count", type=int, default=20, help="number of clips; default: 20")
      command.add_argument(
        "--seed", type=int, default=0, help="seed of the training run whose frames are shown; default: 0"
      )
    if name == "throughput":
      command.add_argument("--image_size", type=int, default=224, help="height and width in pixels; default: 224")
      command.add_argument(
        "--pixels", choices=list(PIXELS), default="float32", help="dtype of the pixels; default: float32"
      )
      command.add_argument("--batch_size", type=int, default=32, help="clips per batch; default: 32")
      command.add_argument("--seconds", type=float, default=20.0, help="duration of the measurement; default: 20")
  return parser


class _SubParser(Parser):
  """Parser of a subcommand."""

  def __init__(self, *, prog: str, description: str, **_: Any):
    super().__init__(description)
    self.prog = prog


def _check(options: argparse.Namespace, fields: dict[str, str]) -> None:
  from clipvip_jax.data.engine import bad_lines, dry_run

  builder = _make_builder(options, fields)
  try:
    results = dry_run.check_corpus(builder, options.decode)
  except bad_lines.BadLinesError as error:
    if len(error.errors) > 1:
      print("\n".join(map(printable, error.errors)))
    raise
  print(dry_run.format_report(builder, results))
  dry_run.check_limits(builder, results)


def _build(options: argparse.Namespace, fields: dict[str, str]) -> None:
  import tensorflow_datasets as tfds

  from clipvip_jax.data.engine import runner

  if options.workers is not None and options.workers < 1:
    raise UserError(f"--workers={options.workers} is out of range; use at least 1")
  builder = _make_builder(options, fields)
  beam_options = runner.parse_options(options.runner, options.beam_options, options.workers)
  builder.build(tfds.download.DownloadConfig(beam_runner=options.runner or None, beam_options=beam_options))


def _add_captions(options: argparse.Namespace, _: dict[str, str]) -> None:
  from clipvip_jax.data.engine.add_captions import add_captions

  add_captions(_open_corpus(options).folder, options.captions, options.name)


def _show(options: argparse.Namespace, _: dict[str, str]) -> None:
  from clipvip_jax.reporting.corpus_samples import write_samples

  with uploaded_file(options.html, "--html") as page:
    write_samples(
      page, _open_corpus(options), options.split, count=options.count, num_frames=options.num_frames, seed=options.seed
    )
  log.info("wrote %s", options.html)


def _throughput(options: argparse.Namespace, _: dict[str, str]) -> None:
  from clipvip_jax.data.engine.runner import available_cores
  from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher

  corpus = _open_corpus(options)
  clips = training_batcher(corpus, options.split, options.num_frames, options.image_size, pixels=options.pixels)
  workers = available_cores() if options.workers is None else options.workers
  log.info("%d frames per clip at %d pixels, %d worker processes", options.num_frames, options.image_size, workers)
  result = measure_throughput(clips, options.batch_size, workers, options.seconds)
  print(f"{result.clips_per_second:.1f} clips/s ({result.clips} clips in {result.seconds:.1f} s)")


def _open_corpus(options: argparse.Namespace) -> "Corpus":
  from ml_collections import ConfigDict

  from clipvip_jax.input_pipeline.open_corpus import open_corpus

  for name, low, high in _LIMITS:
    value = getattr(options, name, None)
    if value is not None and not low <= value <= high:
      raise UserError(f"--{name}={value} is out of range; use {low} to {high}")
  if not options.corpus.isidentifier():
    raise UserError(
      f"{options.corpus!r} is not a corpus; of a manifest, name the corpus that was built from it: {options.command}"
      f" {_MANIFEST_CORPUS} --config=NAME --data_dir=DIR"
    )
  config = ConfigDict({"name": options.corpus, "config": options.config, "data_dir": expand_user(options.data_dir)})
  config.update(
    {name: value for name in ("cache_dir", "cache_gb") if (value := getattr(options, name, None)) is not None}
  )
  return open_corpus(config, "")


def _make_builder(options: argparse.Namespace, fields: dict[str, str]) -> "CorpusBuilder":
  """Returns the builder of a corpus with the fields that flags change."""
  import tensorflow_datasets as tfds

  from clipvip_jax.data.engine.corpus_config import BuildOptions
  from clipvip_jax.input_pipeline.open_corpus import builder_class

  name = options.corpus
  for flag in ("data_dir", "raw_dir"):
    if value := getattr(options, flag):
      storage.check_path(value, f"--{flag}")
      storage.check_bucket(value, f"--{flag}")
  build_fields = {flag: value for flag in _BUILD_FLAGS if (value := getattr(options, flag)) is not None}
  if name.endswith((".jsonl", ".json")):
    if "raw_dir" in build_fields:
      raise UserError(f"--raw_dir={build_fields['raw_dir']} does not apply to the manifest {name}; remove it")
    storage.check_path(name, "MANIFEST")
    storage.check_bucket(name, "MANIFEST")
    name, build_fields = _MANIFEST_CORPUS, {**build_fields, "raw_dir": name}
  elif not name.isidentifier():
    raise UserError(
      f"{name!r} is neither a corpus in data/ nor a manifest: that is a file of JSON lines, one object a line, as in"
      ' {"video": PATH, "text": TEXT}, whose name ends with .jsonl'
    )
  builder = builder_class(name)
  configs = builder.builder_configs
  config = configs.get(options.config or next(iter(configs)))
  if config is None:
    raise UserError(f"--config={options.config!r} is unknown to {name}; use {', '.join(configs)}")
  known = {field.name for field in dataclasses.fields(config)}
  if "captions" in known & build_fields.keys():  # a file of the corpus itself
    fields = {**fields, "captions": build_fields.pop("captions")}
  if unknown := sorted(fields.keys() - known):
    fixed = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | {"splits", "sizes"}
    flags = ", ".join(f"--{field}" for field in sorted({*known, *_BUILD_FLAGS} - fixed))
    raise UserError(f"unknown option --{unknown[0]}; fields that can be set: {flags}")
  if fields or options.name:
    parts = [config.name, *(f"{key}_{value}" for key, value in sorted(fields.items()))]
    derived_name = re.sub(r"[^A-Za-z0-9_.=+-]", "_", "-".join(parts))
    config = _replace_fields(config, {**fields, "name": options.name or derived_name})
  return builder(
    config=config,
    data_dir=expand_user(options.data_dir) or None,
    file_format="array_record",
    options=_replace_fields(BuildOptions(), build_fields),
  )


def _replace_fields(config: _T, texts: dict[str, str]) -> _T:
  """Returns a copy of a dataclass with fields parsed from texts."""
  assert dataclasses.is_dataclass(config) and not isinstance(config, type)
  types = {field.name: str(field.type).split(" |")[0] for field in dataclasses.fields(config)}
  return dataclasses.replace(config, **{name: _parse_value(name, text, types[name]) for name, text in texts.items()})


def _parse_value(name: str, text: str, type_name: str) -> Any:
  parsers: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "a text"),
    "int": (int, "an integer"),
    "float": (float, "a number"),
    "bool": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
  }
  if type_name not in parsers:
    raise UserError(f"--{name} cannot be set on the command line; it is part of the builder's configurations")
  parse, expected = parsers[type_name]
  try:
    return parse(text)
  except (KeyError, ValueError) as error:
    raise UserError(f"--{name}={text}: expected {expected}") from error


if __name__ == "__main__":
  run_command(main)
