"""Corpora: check what a build would meet, build, look, measure.

  python -m clipvip_jax.data_tool check NAME|MANIFEST.jsonl [--source=PATH] [--decode=20]
  python -m clipvip_jax.data_tool build NAME|MANIFEST.jsonl --data_dir=DIR [--source=PATH] [--workers=N]
  python -m clipvip_jax.data_tool show NAME --data_dir=DIR --html=FILE [--split=train] [--count=20]
  python -m clipvip_jax.data_tool throughput NAME --data_dir=DIR [--split=train] [--workers=N]

NAME is a folder of data/, a MANIFEST is read by data/video_manifest. --config names one of the builder's
configurations. Every field of a configuration and of the build can be set, as --fps=3 --short_side=224
--max_left_out=0.2; other content gets another name, which is derived unless --name gives it. --runner=SparkRunner
--beam_options=a=b,c builds on another engine of Apache Beam.
Exit codes: 0 done; 2 bad input, or what `check` has found would stop a build.
"""

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_NAMED = 10  # clips that `check` names of each split
MANIFEST = "video_manifest"
_BOUNDS = (
  ("num_frames", 1, 10_000),
  ("count", 1, 10_000),
  ("seed", 0, 2**63 - 1),
  ("image_size", 1, 4096),
  ("batch_size", 1, 65_536),
  ("workers", 0, 1024),
)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, then one call."""
  options, fields = _parser().parse_known_args(argv)
  wrong = [field for field in fields if not (field.startswith("--") and "=" in field)]
  if wrong:
    raise UserError(f"unexpected argument {wrong[0]!r}; fields are given as --NAME=VALUE, see --help")
  changes = dict(field[2:].split("=", 1) for field in fields)
  if options.command in ("show", "throughput") and changes:
    raise UserError(f"unknown option --{next(iter(changes))}; see --help")
  {"check": _check, "build": _build, "show": _show, "throughput": _throughput}[options.command](options, changes)


def _parser() -> Parser:
  parser = Parser(__doc__)
  commands = parser.add_subparsers(dest="command", required=True, parser_class=_SubParser)
  for name in ("check", "build", "show", "throughput"):
    command = commands.add_parser(name)
    command.add_argument("corpus", metavar="NAME|MANIFEST")
    command.add_argument("--config", default="", help="the builder's configuration; default: its first")
    command.add_argument("--data_dir", default="", help="where corpora stand; default: TFDS' own")
    if name in ("check", "build"):
      command.add_argument("--name", default="", help="of a configuration with other fields")
    if name == "check":
      command.add_argument("--decode", type=int, default=20, help="clips of each split to decode; -1: all")
    if name in ("build", "throughput"):
      command.add_argument("--workers", type=int, default=None, help="processes; default: one a core")
    if name == "build":
      command.add_argument("--runner", default="", help="Apache Beam's; default: this machine")
      command.add_argument("--beam_options", default="", help="NAME=VALUE,... for the runner")
    if name in ("show", "throughput"):
      command.add_argument("--split", default="train")
      command.add_argument("--num_frames", type=int, default=12, help="drawn of each clip")
    if name == "show":
      command.add_argument("--html", type=pathlib.Path, required=True, help="the page to write")
      command.add_argument("--count", type=int, default=20, help="clips")
      command.add_argument("--seed", type=int, default=0, help="of the run whose frames are shown")
    if name == "throughput":
      command.add_argument("--image_size", type=int, default=224)
      command.add_argument("--batch_size", type=int, default=32)
      command.add_argument("--seconds", type=float, default=20.0, help="to measure")
  return parser


class _SubParser(Parser):
  """argparse hands a command's parser more than a description."""

  def __init__(self, **_: Any):
    super().__init__(__doc__)


def _builder(options: argparse.Namespace, changes: dict[str, str]) -> Any:
  """The builder with fields changed as the command line says."""
  import tensorflow_datasets as tfds

  from clipvip_jax.input_pipeline.corpus import builder_class
  from data.engine.builder import BuildOptions

  name = options.corpus
  if name.endswith((".jsonl", ".json")):
    if "source" in changes:
      raise UserError(f"--source={changes['source']}: the manifest {options.corpus} is the source")
    name, changes = MANIFEST, {**changes, "source": options.corpus}
  builder = builder_class(name)
  configs = builder.builder_configs
  config = configs.get(options.config or next(iter(configs)))
  if config is None:
    raise UserError(f"--config={options.config!r} is unknown to {name}; it has: {', '.join(configs)}")
  build_fields = {field.name for field in dataclasses.fields(BuildOptions)}
  known = {field.name for field in dataclasses.fields(config)} | build_fields
  if unknown := sorted(changes.keys() - known):
    general = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | {"splits", "sizes"}
    allowed = ", ".join(f"--{name}" for name in sorted(known - general))
    raise UserError(f"unknown option --{unknown[0]}; fields that can be set: {allowed}")
  build = _replaced(BuildOptions(), {key: value for key, value in changes.items() if key in build_fields})
  content = {key: value for key, value in changes.items() if key not in build_fields}
  if content or options.name:
    parts = [config.name, *(f"{key}_{value}" for key, value in sorted(content.items()))]
    derived = re.sub(r"[^A-Za-z0-9_.=+-]", "_", "-".join(parts))
    config = _replaced(config, {**content, "name": options.name or derived})
  folder = _folder(options) or None
  return builder(config=config, data_dir=folder, file_format="array_record", options=build)


def _folder(options: argparse.Namespace) -> str:
  """--data_dir; a shell leaves the ~ behind = as it is."""
  remote = "://" in options.data_dir
  return options.data_dir if remote or not options.data_dir else str(pathlib.Path(options.data_dir).expanduser())


def _replaced(config: Any, changes: dict[str, str]) -> Any:
  """The dataclass with fields given as text, each as the type that it has."""
  kinds = {field.name: str(field.type).split(" |")[0] for field in dataclasses.fields(config)}
  return dataclasses.replace(config, **{name: _typed(name, text, kinds[name]) for name, text in changes.items()})


def _typed(name: str, text: str, kind: str) -> Any:
  kinds: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
  }
  if kind not in kinds:
    raise UserError(f"--{name} cannot be set here; it is set in the builder's configurations")
  convert, what = kinds[kind]
  try:
    return convert(text)
  except (KeyError, ValueError) as error:
    raise UserError(f"--{name}={text}: expected {what}") from error


def _check(options: argparse.Namespace, changes: dict[str, str]) -> None:
  from data.engine import dry_run
  from data.engine.coverage import LACKING

  builder = _builder(options, changes)
  most = builder.options.max_left_out
  found = dry_run.check(builder, options.decode, log.info)
  print(f"{builder.name}/{builder.builder_config.name}: {builder.builder_config.stored().describe()}")
  print(f"{'split':<12}{'clips':>10}{'missing':>10}{'decoded':>10}{'bad':>8}  texts")
  for split, result in found.items():
    texts = ", ".join(f"{count} {field}" for field, count in result.texts.items() if count)
    bad = sum(clip.reason != "missing" for clip in result.bad)
    print(f"{split:<12}{result.clips:>10}{result.missing:>10}{result.decoded:>10}{bad:>8}  {texts}")
  for split, result in found.items():
    for clip in result.bad[:_NAMED]:
      print(printable(f"{split}: {clip.name}: {clip.reason.replace('_', ' ')}: {clip.detail}"))
    if len(result.bad) > _NAMED:
      print(f"{split}: and {len(result.bad) - _NAMED} more")
  lost = {split: f"{result.lost:.1%}" for split, result in found.items() if result.lost > most}
  if lost:
    raise UserError(f"a build would leave out more than {most:.1%} of {lost}; mend the files, or raise --max_left_out")
  most = builder.options.max_lacking
  for split, result in found.items():
    for name in LACKING:
      if result.texts[name] > most * result.decoded:
        raise UserError(
          f"split {split!r}: of {result.decoded} clips that were decoded {result.texts[name]} have no"
          f" {name.removeprefix('lacking_')}, and a build refuses more than {most:.1%} of all. Is the file that of"
          " these clips? If so, raise --max_lacking"
        )


def _build(options: argparse.Namespace, changes: dict[str, str]) -> None:
  import tensorflow_datasets as tfds

  from data.engine import runner

  if options.workers is not None and options.workers < 1:
    raise UserError(f"--workers={options.workers} must be at least 1")
  builder = _builder(options, changes)
  if builder.is_prepared():
    builder.check_annotations()
    log.info("%s is there already", builder.data_path)
    return
  beam = runner.options(options.runner, options.beam_options, options.workers)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(beam_runner=options.runner or None, beam_options=beam)
  )
  for split, counts in builder.info.metadata["coverage"].items():
    log.info("%s: %s", split, ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if value))
  log.info("wrote %s", builder.data_path)


def _open(options: argparse.Namespace) -> Any:
  from ml_collections import ConfigDict

  from clipvip_jax.input_pipeline.corpus import open_corpus

  for name, least, most in _BOUNDS:
    value = getattr(options, name, None)
    if value is not None and not least <= value <= most:
      raise UserError(f"--{name}={value}: allowed are {least} to {most}")
  return open_corpus(ConfigDict({"name": options.corpus, "config": options.config, "data_dir": _folder(options)}), "")


def _show(options: argparse.Namespace, _: dict[str, str]) -> None:
  from clipvip_jax.reporting.corpus_samples import write_samples

  write_samples(
    options.html,
    _open(options),
    options.split,
    count=options.count,
    num_frames=options.num_frames,
    seed=options.seed,
  )
  log.info("wrote %s", options.html)


def _throughput(options: argparse.Namespace, _: dict[str, str]) -> None:
  from clipvip_jax.input_pipeline.throughput import throughput, training_clips

  clips = training_clips(_open(options), options.split, options.num_frames, options.image_size)
  workers = _cores() if options.workers is None else options.workers
  log.info("%d frames of each clip to %d pixels, %d worker processes", options.num_frames, options.image_size, workers)
  found = throughput(clips, options.batch_size, workers, options.seconds)
  print(f"{found.clips_per_second:.1f} clips/s ({found.clips} clips in {found.seconds:.1f} s)")


def _cores() -> int:
  from data.engine.runner import cores

  return cores()


if __name__ == "__main__":
  run_command(main)
