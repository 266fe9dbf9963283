"""Evaluates text-video retrieval of any weights on any corpus, without training.

  python -m clipvip_jax.evaluate --model=SOURCE --dataset=NAME[/CONFIG] --data_dir=DIR --workdir=DIR [--split=SPLIT]
  python -m clipvip_jax.evaluate --embeddings=FILE_OR_WORKDIR --workdir=DIR

Defaults of options come from the config of SOURCE if it is a run on that corpus, otherwise from the corpus' recipe in
configs/. Writes results.json, report.html and embeddings_SPLIT.safetensors to --workdir. The second form evaluates
stored embeddings, without model and corpus. Repeat --model (or --embeddings) for runs that differ only in seed to also
get mean and standard deviation. Exit codes: 0 success; 2 bad input. The steps are in evaluation/run.py.
"""

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipvip_jax.input_pipeline.preprocessing import CROPS, PIXELS
from clipvip_jax.utils.bucket_copies import to_addresses, uploaded_folder
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

if TYPE_CHECKING:  # options are checked before JAX is imported
  from clipvip_jax.evaluation.run import TargetResult

_LIMITS = {"num_frames": (1, 10_000), "text_length": (2, 2**20), "batch_size": (1, 2**24), "num_workers": (0, 1024)}
_OF_EMBEDDINGS = ("embeddings", "model", "workdir", "split", "protocol")  # the options that apply to embeddings


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument(
    "--model",
    metavar="SOURCE",
    action="append",
    default=[],
    help="file, folder, hf://OWNER/NAME or workdir; repeatable",
  )
  parser.add_argument(
    "--embeddings",
    metavar="FILE_OR_WORKDIR",
    action="append",
    default=[],
    type=path_argument("--embeddings"),
    help="embeddings of an evaluation, in place of --model and --dataset; may be repeated",
  )
  parser.add_argument("--workdir", required=True, type=path_argument("--workdir"), help="folder for the results")
  parser.add_argument("--dataset", metavar="NAME[/CONFIG]", default="", help="a built corpus, such as msrvtt/9k")
  parser.add_argument("--data_dir", default="", help="dataset directory; default: that of TFDS")
  parser.add_argument("--cache_dir", help="local folder for files of a corpus on gs:// or s3://")
  parser.add_argument("--cache_gb", type=float, help="limit of the cache in GB; default: 100")
  parser.add_argument("--split", help="split to evaluate; default: evaluate.final_splits of the recipe")
  parser.add_argument("--protocol", help="single: one query per clip; multi: several; default: as in the recipe")
  parser.add_argument("--num_frames", type=int, help="frames per clip; default: as in the recipe")
  parser.add_argument(
    "--text_length", type=int, help="tokens per text, start and end included; default: as in the recipe"
  )
  parser.add_argument("--query", help="record field with the queries, such as caption; default: description")
  parser.add_argument("--temporal", help="proxies, full, sequence or mean; default: as trained, mean for a plain CLIP")
  parser.add_argument("--crop", choices=CROPS, help="how frames become square; default: as in training, or squash")
  parser.add_argument("--pixels", choices=list(PIXELS), help="dtype of resized frames; default: as in training")
  parser.add_argument("--tokenizer", help="clip or a tokenizer.json; default: that of the weights")
  parser.add_argument("--dtype", help="computation: bfloat16 or float32; default: as in the recipe")
  parser.add_argument("--batch_size", type=int, help="clips per batch over all devices; default: as in the recipe")
  parser.add_argument("--num_workers", type=int, help="data loading processes; 0: threads; default: as in the recipe")
  return parser


def _check_options(options: argparse.Namespace) -> None:
  """Raises UserError for options that are wrong in themselves."""
  if bool(options.model) == bool(options.embeddings):
    raise UserError("pass either --model=SOURCE with --dataset, or --embeddings=FILE_OR_WORKDIR")
  if options.embeddings:
    other = [name for name, value in vars(options).items() if name not in _OF_EMBEDDINGS and value not in (None, "")]
    if other:
      raise UserError(f"--{other[0]} does not apply to --embeddings, which are computed already; leave it out")
    return
  if not re.fullmatch(r"\w+(/[\w.=+-]+)?", options.dataset):
    raise UserError(f"--dataset={options.dataset!r} must be NAME or NAME/CONFIG of a corpus of data/")
  for name, (minimum, maximum) in _LIMITS.items():
    value = getattr(options, name)
    if value is not None and not minimum <= value <= maximum:
      raise UserError(f"--{name}={value} must be at least {minimum} and at most {maximum}")


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, evaluates and prints the results."""
  options = _parser().parse_args(argv)
  _check_options(options)
  from clipvip_jax.evaluation import run, targets

  fields = {field.name for field in dataclasses.fields(targets.EvaluationOptions)}
  evaluation_options = targets.EvaluationOptions(
    **{name: value for name, value in vars(options).items() if name in fields}
  )
  pages = [f"model_{number}/report.html" for number in range(len(options.embeddings))]
  with uploaded_folder(options.workdir, "--workdir", [*run.FILES, *pages], "results.json") as folder:
    evaluated = [
      *(target for path in options.embeddings for target in targets.from_files(path, options.split, options.protocol)),
      *(targets.from_model(source, evaluation_options) for source in options.model),
    ]
    results = run.evaluate(evaluated, folder.resolve(), _report)
  if "spread" in results:
    _print_spread(results)
    log.info("wrote %s", to_addresses(str(folder.resolve() / "results.json")))


def _report(result: "TargetResult") -> None:
  """Writes the report of one model and prints its results."""
  from clipvip_jax.reporting import query_examples, report, results_table

  loaded, page = result.target.loaded, result.folder / "report.html"
  if loaded is not None:
    first = next(iter(result.splits.values()))
    model = loaded.model
    examples = query_examples.report_examples(model.net, model.params, loaded.corpus, first, loaded.config)
    report.write_report(page, result.results, examples=examples)
  elif not page.exists():  # an existing page is of the same evaluation, and has frames of the videos
    report.write_report(page, result.results)
  for split, metrics in result.results["splits"].items():
    print(results_table.format_split(split, metrics, result.results["published"].get(split, [])))
  log.info("wrote %s and report.html", to_addresses(str(result.folder / "results.json")))


def _print_spread(results: Mapping[str, Any]) -> None:
  """Prints mean and standard deviation over several models."""
  from clipvip_jax.reporting import results_table

  for split, spread in results["spread"].items():
    published = results["published"].get(split, [])
    print(results_table.format_spread(split, spread, len(results["models"]), published))


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
