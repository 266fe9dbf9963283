"""Measures retrieval, without training: any weights on any corpus, one command a published number.

  python -m clipvip_jax.evaluate --model=SOURCE --dataset=NAME[/CONFIG] --data_dir=DIR --workdir=DIR [--split=SPLIT]
  python -m clipvip_jax.evaluate --embeddings=FILE_OR_WORKDIR --workdir=DIR

What is not said comes from the run that SOURCE is, where it was trained on that corpus, else from the corpus' recipe in
configs/. --workdir gets results.json, report.html and embeddings_SPLIT.safetensors, from which the second form measures again
without model and corpus. Several --model (or --embeddings), runs that differ in seed alone, give mean and standard
deviation as well. Exit codes: 0 done; 2 bad input.
"""

import argparse
import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipvip_jax.evaluation import confidence, published_results, retrieval, split_embeddings
from clipvip_jax.reporting import report, results_table
from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_LEAST = {"num_frames": 1, "text_length": 2, "batch_size": 1, "num_workers": 0}
_DUAL_SOFTMAX = (
  f"similarity * softmax({retrieval.DSL_TEMPERATURE:g} * similarity, over all queries of the split): it sees them at"
  " once, which a search cannot, and is no substitute for the plain numbers"
)


def evaluate(found: Sequence[Any], folder: pathlib.Path) -> dict[str, Any]:
  """Measures models, or embeddings, that are alike, and writes what comes out.

  Args:
    found: of `evaluated.Evaluated`.
    folder: gets results.json, report.html and embeddings; of several models each has a folder of its own in it.

  Returns:
    What results.json holds.

  Raises:
    UserError: they are not alike, the folder holds something else, or features are not finite.
  """
  from clipvip_jax.evaluation import targets

  targets.check_comparable(found)
  _claim(folder, found)
  if len(found) == 1:
    return _measure(found[0], folder)
  results = []
  for number, one in enumerate(found):
    part = folder / f"model_{number}"
    part.mkdir(exist_ok=True)
    results.append(_measure(one, part))
  return _spread(found, results, folder)


def _claim(folder: pathlib.Path, found: Sequence[Any]) -> None:
  """Takes the folder for this evaluation; refuses one that holds another, or a run."""
  if folder.exists() and not folder.is_dir():
    raise UserError(f"--workdir={folder} is a file, not a folder")
  there = {name for name in ("config.json", "results.json", "evaluation.json") if (folder / name).exists()}
  if "config.json" in there or (there and "evaluation.json" not in there):
    raise UserError(f"{folder} holds a run: name another --workdir for its evaluation")
  about = found[0].about
  wanted = {
    **about.get("config", {}),
    "corpus": about.get("corpus", {}),
    "models": [one.about.get("model", {}).get("identity", "unknown") for one in found],
    "splits": list(found[0].splits),
  }
  workdir.check_same(folder, "evaluation", wanted)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(folder / "evaluation.json", wanted)
  except OSError as error:
    raise UserError(f"--workdir={folder} cannot be written ({error.strerror}): name another") from error


def _measure(one: Any, folder: pathlib.Path) -> dict[str, Any]:
  """One model's results, written and shown."""
  from clipvip_jax.evaluation.evaluator import measure_retrieval
  from clipvip_jax.utils.versions import versions

  print(printable(f"{one.about.get('model', {}).get('source', one.name)} on {_corpus_name(one)}"))
  done = one.about.get("preprocessing", {})
  print(printable("; ".join(str(done[name]) for name in ("frames", "size", "text", "dtype") if name in done)))
  measured = {}
  for split, embed in one.splits.items():
    measured[split] = measure_retrieval(embed())
    _add_intervals(measured[split])
    if not one.kept:
      split_embeddings.write_embeddings(folder / f"embeddings_{split}.safetensors", measured[split].embeddings)
  published = {split: published_results.published_rows(_corpus_name(one), split) for split in measured}
  results = {
    **one.about,
    "splits": {split: result.metrics for split, result in measured.items()},
    "published": {split: rows for split, rows in published.items() if rows},
    "dual_softmax": _DUAL_SOFTMAX,
    "versions": versions(),
  }
  config_tree.write_json(folder / "results.json", results)
  page = folder / "report.html"
  if not (one.kept and page.exists()):  # one of the same evaluation, with frames of videos
    report.write_report(page, results, **_examples(one, next(iter(measured.values()))))
  for split, result in measured.items():
    print(results_table.format_split(split, result.metrics, published[split]))
  log.info("wrote %s and report.html", folder / "results.json")
  return results


def _examples(one: Any, result: Any) -> dict[str, Any]:
  """What the report shows of a split besides numbers; of kept embeddings nothing."""
  from clipvip_jax.reporting import query_examples

  if one.model is None:
    return {}
  return query_examples.report_examples(one.model.net, one.model.params, one.corpus, result, one.config)


def _corpus_name(one: Any) -> str:
  return str(one.about.get("corpus", {}).get("name", "an unknown corpus"))


def _add_intervals(result: Any) -> None:
  """R@1_interval beside the plain R@1 of both directions."""
  labels = np.asarray(result.embeddings.labels)
  ranks = {
    "text_to_video": (retrieval.text_to_video_ranks(result.similarity, labels), labels),
    "video_to_text": (retrieval.video_to_text_ranks(result.similarity, labels), np.unique(labels)),
  }
  for direction, (found, videos) in ranks.items():
    result.metrics["plain"][direction]["R@1_interval"] = confidence.bootstrap_interval(found == 1, videos)


def _spread(found: Sequence[Any], results: Sequence[dict[str, Any]], folder: pathlib.Path) -> dict[str, Any]:
  """Mean and standard deviation over models, written and shown."""
  measured = ("plain", "dsl", "twins")
  spread = {
    split: confidence.mean_and_sd([{k: v for k, v in one["splits"][split].items() if k in measured} for one in results])
    for split in found[0].splits
  }
  shared = ("corpus", "config", "preprocessing", "published", "dual_softmax", "versions")
  whole = {
    "spread": spread,
    "models": [{**one.get("model", {}), "folder": f"model_{number}"} for number, one in enumerate(results)],
    **{name: results[0][name] for name in shared if name in results[0]},
  }
  config_tree.write_json(folder / "results.json", whole)
  for split, numbers in spread.items():
    published = whole["published"].get(split, [])
    print(results_table.format_spread(split, numbers, len(results), published))
  log.info("wrote %s", folder / "results.json")
  return whole


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument("--model", metavar="SOURCE", action="append", default=[], help="weights; may be given again")
  parser.add_argument("--embeddings", metavar="FILE_OR_WORKDIR", action="append", default=[], type=pathlib.Path)
  parser.add_argument("--workdir", required=True, type=pathlib.Path, help="folder of the results")
  parser.add_argument("--dataset", metavar="NAME[/CONFIG]", default="", help="a corpus of data/")
  parser.add_argument("--data_dir", default="", help="where corpora stand; default: TFDS' own")
  parser.add_argument("--split", help="default: those of the recipe's results")
  parser.add_argument("--protocol", help="single: one query a clip; multi: several, each asked on its own")
  parser.add_argument("--num_frames", type=int)
  parser.add_argument("--text_length", type=int, help="tokens, start and end included")
  parser.add_argument("--query", help="the records' field that is searched with")
  parser.add_argument("--temporal", help="how frames become a video; default: the weights', mean for a plain CLIP")
  parser.add_argument("--tokenizer", help="clip or a tokenizer.json; default: the weights'")
  parser.add_argument("--dtype", help="of the computation: bfloat16 or float32")
  parser.add_argument("--batch_size", type=int)
  parser.add_argument("--num_workers", type=int, help="processes that load data; 0: threads of this one")
  return parser


def _check(options: argparse.Namespace) -> None:
  """Raises UserError for what is wrong by itself."""
  if bool(options.model) == bool(options.embeddings):
    raise UserError("name what to evaluate: --model=SOURCE with --dataset, or --embeddings=FILE_OR_WORKDIR alone")
  if options.embeddings:
    free = ("embeddings", "model", "workdir", "split", "protocol")
    said = [name for name, value in vars(options).items() if name not in free and value not in (None, "")]
    if said:
      raise UserError(f"--{said[0]} says nothing of embeddings that are computed already")
    return
  if not re.fullmatch(r"\w+(/[\w.=+-]+)?", options.dataset):
    raise UserError(f"--dataset={options.dataset!r} must be NAME or NAME/CONFIG of a corpus of data/")
  for name, least in _LEAST.items():
    value = getattr(options, name)
    if value is not None and value < least:
      raise UserError(f"--{name}={value} must be at least {least}")


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, evaluates, prints."""
  options = _parser().parse_args(argv)
  _check(options)
  from clipvip_jax.evaluation import targets  # late: a wrong option answers before JAX is there

  fields = {field.name for field in dataclasses.fields(targets.EvaluationOptions)}
  asked = targets.EvaluationOptions(**{name: value for name, value in vars(options).items() if name in fields})
  found = [one for path in options.embeddings for one in targets.from_files(path, asked)]
  found += [targets.from_model(source, asked) for source in options.model]
  evaluate(found, options.workdir.resolve())


if __name__ == "__main__":
  run_command(main)
