"""report.html: one file that a person opens to see how well a model retrieves, and on what it fails.

The page is self-contained (no script, no font, no link to elsewhere) and its content security policy forbids
the rest, since captions come from anybody. The same input gives the same bytes.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clipvip_jax.evaluation.retrieval import RECALLS, percent
from clipvip_jax.reporting import charts, pages
from clipvip_jax.reporting.charts import Curve
from clipvip_jax.reporting.results_table import DIRECTIONS, KINDS, format_coverage, format_metrics
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.metrics_history import is_number
from clipvip_jax.utils import config_tree

_DETAILS = {"config": "Configuration", "preprocessing": "Preprocessing", "versions": "Versions"}


def write_report(
  path: str | os.PathLike[str],
  results: Mapping[str, Any],
  history: Iterable[Mapping[str, Any]] = (),
  examples: Iterable[Mapping[str, Any]] = (),
  attention: Iterable[Mapping[str, Any]] = (),
) -> None:
  """Writes the report to `path`, whole or not at all.

  Args:
    path: the HTML file; its folder must exist.
    results: {"splits": {name: {"size", "expected", "missing", "queries", "duplicate_queries", "missing_captions",
      "plain", "dsl", "twins", "rank_histogram"}}, "published": {name: rows}, "step", "best_step", "num_params",
      "config", "preprocessing", "versions"}: what `evaluator.measure_retrieval` and `published_results.published_rows`
      return, as results.json holds it. Whatever is absent is left out of the page or shown as a dash.
    history: {"kind": "train", "step", "loss"} and {"kind": "eval", "step", "split", "metrics": one split's
      results}, in any order. Of two entries for one step the later one counts.
    examples: {"split", "kind": "best" | "worst" | "typical", "query", "rank", "top": [{"place", "id", "score", "right",
      "frames": [JPEG bytes]}]}, best video first. They are shown as they come: the caller chooses the queries.
    attention: {"split", "id", "num_frames", "shown": [indices of frames], "frames": [JPEG bytes], "proxies": [{"name",
      "share", "frames": [{"share", "jpeg"}]}]}, as `attention_maps.record_attention` gives it.

  Raises:
    OSError: the folder is absent or cannot be written; KeyError: an entry of history, examples or attention lacks a key
      named above. A report that stood at `path` before stays as it was.
  """
  page = pages.render("report.html.jinja", **_view(results, list(history), examples, attention))
  pages.save_page(pathlib.Path(path), page)


def _view(
  results: Mapping[str, Any], history: list[Mapping[str, Any]], examples: Iterable, attention: Iterable
) -> dict[str, Any]:
  """-> everything the template shows, formatted."""
  splits = results.get("splits") or {}
  num_params = results.get("num_params")
  return {
    "splits": [_split(name, split, (results.get("published") or {}).get(name, ())) for name, split in splits.items()],
    "step": results.get("step"),
    "best_step": results.get("best_step"),
    "num_params": None if num_params is None else _rounded(num_params),
    "ranks": [rank_chart(name, split["rank_histogram"]) for name, split in splits.items() if "rank_histogram" in split],
    "charts": list(_charts(history, results.get("best_step"))),
    "examples": [_example(example, splits) for example in examples],
    "attention": [_attention(entry) for entry in attention],
    "details": [
      {"title": title, "rows": [(name, shown(value)) for name, value in config_tree.flatten(results[key])]}
      for key, title in _DETAILS.items()
      if results.get(key)
    ],
  }


def _rounded(count: int) -> str:
  return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def rank_chart(split: str, histogram: Mapping[str, int]) -> dict[str, Any]:
  """The chart of `retrieval.rank_histogram`, whose order JSON does not keep."""
  bins = sorted(histogram.items(), key=lambda item: int(item[0].split("-")[0]))
  return charts.bars("Where the right video ranked", f"{split}, queries by rank", dict(bins))


def _split(name: str, split: Mapping[str, Any], published: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """One split's tables; chance is what a ranking at random would reach on average."""
  size = split.get("size")
  # Of several captions a clip, its best counts: where that ranks by chance is no simple number.
  middle = (size + 1) / 2 if size and split.get("queries", size) == size else None
  ranks = {"median_rank": middle, "mean_rank": middle}
  chance = {**{f"R@{k}": min(k / size, 1.0) for k in RECALLS}, **ranks} if size else {}
  tables = []
  for kind, title in KINDS.items():
    rows = [(label, format_metrics((split.get(kind) or {}).get(key))) for key, label in DIRECTIONS.items()]
    others = [(_published(row), format_metrics(row)) for row in published if row["kind"] == kind]
    tables.append({"title": title, "rows": rows, "published": others, "chance": format_metrics(chance)})
  twins = split.get("twins") or {}
  recall = ((split.get("plain") or {}).get("text_to_video") or {}).get("R@1")
  return {
    "name": name,
    "size": size,
    "coverage": format_coverage(split) if size else "",
    "queries": split.get("queries") if split.get("queries") != size else None,
    "missing": split.get("missing_captions") or 0,
    "duplicates": split.get("duplicate_queries") or 0,
    "tables": tables,
    "intervals": _intervals(split.get("plain") or {}),
    "test_set": next((row["test_set"] for row in published), None),
    "recall": _meter(recall, chance.get("R@1")),
    "twins": _meter(twins.get("accuracy"), 0.5),
    "twins_count": twins.get("count"),
  }


def _published(row: Mapping[str, Any]) -> str:
  return f"{DIRECTIONS[row['direction']]}, {row['model']} {row['setting']}"


def _intervals(plain: Mapping[str, Any]) -> list[str]:
  """`text → video 47.0 to 53.1` of each direction that has one."""
  found = [(label, (plain.get(key) or {}).get("R@1_interval")) for key, label in DIRECTIONS.items()]
  return [f"{label} {percent(pair[0])} to {percent(pair[1])}" for label, pair in found if pair]


def _meter(value: float | None, chance: float | None) -> dict[str, str | None] | None:
  """A fraction and its chance level, in percent, or None where it was not measured."""
  if not is_number(value):
    return None
  return {"value": percent(value), "chance": None if chance is None else percent(chance)}


def _example(example: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, Any]:
  """A query and its best videos; JPEG bytes become data: URIs, which is what keeps the page one file."""
  videos = [
    {
      "place": video["place"],
      "id": video["id"],
      "score": f"{video['score']:.3f}",
      "right": bool(video["right"]),
      "frames": [pages.jpeg_uri(frame) for frame in video["frames"]],
    }
    for video in example["top"]
  ]
  return {
    "split": example["split"],
    "kind": example["kind"],
    "query": example["query"],
    "rank": example["rank"],
    "of": (splits.get(example["split"]) or {}).get("size"),
    "videos": videos,
    "found": any(video["right"] for video in videos),
  }


def _attention(entry: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "split": entry["split"],
    "id": entry["id"],
    "num_frames": entry["num_frames"],
    "shown": [index + 1 for index in entry["shown"]],
    "frames": [pages.jpeg_uri(frame) for frame in entry["frames"]],
    "proxies": [
      {
        "name": proxy["name"],
        "share": percent(proxy["share"]),
        "frames": [(percent(frame["share"]), pages.jpeg_uri(frame["jpeg"])) for frame in proxy["frames"]],
      }
      for proxy in entry["proxies"]
    ],
  }


def shown(value: Any) -> str:
  """A value of the configuration as text."""
  return value if isinstance(value, str) else json.dumps(value, default=str)


def _charts(history: list[Mapping[str, Any]], best_step: int | None) -> Iterator[dict[str, Any]]:
  """-> the charts for which the history holds a point: the loss, and the recalls of each split."""
  steps, values = metrics_history.loss_curve(history)
  if steps:
    raw = Curve("raw", steps, values, "first", faint=True, marker=len(steps) == 1)
    smooth = Curve("smoothed", steps, charts.smoothed(values), "first")
    yield charts.lines("Training loss", "raw and smoothed, over optimiser steps", [raw, smooth])
  for split, evaluated in metrics_history.evaluations_by_split(history).items():
    if recalls := _recall_curves(evaluated):
      note = f"{split}, percent, over optimiser steps"
      yield charts.lines("Text-to-video recall", note, recalls, top=100.0, best_step=best_step)


def _recall_curves(evaluated: Mapping[int, Mapping[str, Any]]) -> list[Curve]:
  wanted: dict[str, tuple[str, ...]] = {f"R@{k}": ("plain", "text_to_video", f"R@{k}") for k in RECALLS}
  wanted["twins accuracy"] = ("twins", "accuracy")
  found = []
  for (name, keys), series, dashes in zip(wanted.items(), charts.SERIES, ("-", "--", "-.", ":"), strict=True):
    steps, values = metrics_history.percent_curve(evaluated, *keys)
    if steps:
      found.append(Curve(name, steps, values, series, dashes, marker=len(steps) <= 40))
  return found
