"""Report of a run or an evaluation: report.html with results, curves, example queries and attention maps.

The page is one self-contained file without scripts, fonts or links, and its content security policy blocks whatever a
caption might inject. Equal input gives a byte-identical page.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation.retrieval import RECALLS, percent
from clipvip_jax.reporting import charts, pages
from clipvip_jax.reporting.charts import Chart, Curve
from clipvip_jax.reporting.report_inputs import Examples, QueryExample, VideoAttention
from clipvip_jax.reporting.results_table import DIRECTIONS, GROUPED, KINDS, METRICS, format_coverage, format_metrics
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.metrics_history import is_number, lookup
from clipvip_jax.utils import config_tree

_DETAILS = {"config": "Configuration", "preprocessing": "Preprocessing", "versions": "Versions"}
_TWINS_CHANCE = 0.5
_DASHES = ("-", "--", "-.", ":")


def write_report(
  path: str | os.PathLike[str],
  results: Mapping[str, Any],
  history: Iterable[Mapping[str, Any]] = (),
  examples: Examples = Examples(),  # noqa: B008  # immutable
) -> None:
  """Writes the report atomically.

  Args:
    path: the HTML file; its folder must exist.
    results: the contents of results.json. Whatever is missing is omitted or shown as a dash.
    history: rows of metrics.jsonl in any order; of two rows for one step the later one counts.
    examples: queries and attention maps.

  Raises:
    OSError: the folder is missing or cannot be written.
    KeyError: a row of the history lacks "kind", "step", "split" or "metrics".
  """
  page = pages.render("report.html.jinja", **_page_values(results, list(history), examples))
  pages.save_page(pathlib.Path(path), page)


def _page_values(
  results: Mapping[str, Any], history: Sequence[Mapping[str, Any]], examples: Examples
) -> dict[str, Any]:
  """Returns the formatted values of the template."""
  splits = results.get("splits") or {}
  published = results.get("published") or {}
  num_params = results.get("num_params")
  return {
    "columns": [*METRICS.values()],
    "splits": [_split_section(name, split, published.get(name, ())) for name, split in splits.items()],
    "step": results.get("step"),
    "best_step": results.get("best_step"),
    "peak_memory": _peak_memory(history),
    "num_params": None if num_params is None else _format_count(num_params),
    "ranks": [
      _rank_chart(name, split["rank_histogram"]) for name, split in splits.items() if "rank_histogram" in split
    ],
    "charts": list(_training_charts(history, results.get("best_step"))),
    "examples": [_example(example, splits.get(example.split) or {}) for example in examples.queries],
    "attention": [_attention(video) for video in examples.attention],
    "details": [
      {"title": title, "rows": [(name, format_value(value)) for name, value in config_tree.flatten(results[key])]}
      for key, title in _DETAILS.items()
      if results.get(key)
    ],
  }


def format_value(value: Any) -> str:
  """Formats a value of the configuration: strings as they are, others as JSON."""
  return value if isinstance(value, str) else json.dumps(value, default=str)


def _format_count(count: int) -> str:
  return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _peak_memory(history: Sequence[Mapping[str, Any]]) -> str | None:
  """Formats the high-water mark of a device's memory; None where it was not measured."""
  _, values = metrics_history.train_curve(history, metrics_history.PEAK_MEMORY)
  return f"{max(values) / 2**30:,.1f} GiB" if values else None


def _split_section(name: str, split: Mapping[str, Any], published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  size, queries = split.get("size"), split.get("queries")
  chance = _chance(size)
  one_query_each = queries in (None, size) and lookup(split, ("plain", GROUPED)) is None
  twins = split.get("twins") or {}
  return {
    "name": name,
    "coverage": format_coverage(split) if size else "",
    "queries": queries if queries != size else None,
    "missing": split.get("missing_captions") or 0,
    "duplicates": split.get("duplicate_queries") or 0,
    "tables": [
      {
        "title": title,
        "rows": _direction_rows(split, kind),
        "published": [(_published_label(row), format_metrics(row)) for row in published if row["kind"] == kind],
        "chance": format_metrics(chance),
        "chance_label": "Chance" if one_query_each else "Chance, text to video",
      }
      for kind, title in KINDS.items()
    ],
    "intervals": _intervals(split),
    "test_set": next((row["test_set"] for row in published), None),
    "recall": _meter(lookup(split, ("plain", "text_to_video", "R@1")), chance.get("R@1")),
    "twins": _meter(twins.get("accuracy"), _TWINS_CHANCE),
    "twins_count": twins.get("count"),
  }


def _direction_rows(split: Mapping[str, Any], kind: str) -> list[tuple[str, list[str]]]:
  """Returns (label, cells) of each direction; that of grouped captions only where it was measured."""
  rows = {direction: lookup(split, (kind, direction)) for direction in DIRECTIONS}
  return [(DIRECTIONS[key], format_metrics(row)) for key, row in rows.items() if key != GROUPED or row is not None]


def _chance(size: int | None) -> dict[str, float]:
  """Returns the expected text-to-video metrics of a random ranking of `size` clips.

  They are those of both directions if each clip has one query. Otherwise, video-to-text ranks the queries or their
  groups, of which there are more or fewer than clips.
  """
  if not size:
    return {}
  recalls = {f"R@{k}": min(k / size, 1.0) for k in RECALLS}
  return {**recalls, **dict.fromkeys(("median_rank", "mean_rank"), (size + 1) / 2)}


def _published_label(row: Mapping[str, Any]) -> str:
  return f"{DIRECTIONS[row['direction']]}, {row['model']} {row['setting']}"


def _intervals(split: Mapping[str, Any]) -> list[str]:
  """Formats the R@1 interval of each direction that has one: `Text to video 47.0 to 53.1`."""
  intervals = [(label, lookup(split, ("plain", key, "R@1_interval"))) for key, label in DIRECTIONS.items()]
  return [f"{label} {percent(bounds[0])} to {percent(bounds[1])}" for label, bounds in intervals if bounds]


def _meter(value: float | None, chance: float | None) -> dict[str, str | None] | None:
  """Formats a fraction and its chance level in percent; None if it is not a number."""
  if not is_number(value):
    return None
  return {"value": percent(value), "chance": None if chance is None else percent(chance)}


def _example(example: QueryExample, split: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "split": example.split,
    "kind": example.kind,
    "query": example.query,
    "rank": example.rank,
    "num_videos": split.get("size"),
    "has_match": any(video.is_match for video in example.videos),
    "videos": [
      {
        "rank": video.rank,
        "id": video.id,
        "score": f"{video.score:.3f}",
        "is_match": video.is_match,
        "frames": [pages.jpeg_uri(frame) for frame in video.frames],
      }
      for video in example.videos
    ],
  }


def _attention(video: VideoAttention) -> dict[str, Any]:
  return {
    "split": video.split,
    "id": video.id,
    "num_frames": video.num_frames,
    "frame_numbers": [index + 1 for index in video.frame_indices],
    "frames": [pages.jpeg_uri(frame) for frame in video.frames],
    "proxies": [
      {
        "name": proxy.name,
        "share": percent(proxy.share),
        "frames": [(percent(frame.share), pages.jpeg_uri(frame.jpeg)) for frame in proxy.frames],
      }
      for proxy in video.proxies
    ],
  }


def _rank_chart(split: str, histogram: Mapping[str, int]) -> Chart:
  """Draws `retrieval.rank_histogram`, whose order JSON does not keep."""
  bins = sorted(histogram.items(), key=lambda item: int(item[0].split("-")[0]))
  return charts.bar_chart("Rank of the matching video", f"{split}, number of queries by rank", dict(bins))


def _training_charts(history: Sequence[Mapping[str, Any]], best_step: int | None) -> Iterator[Chart]:
  """Draws the loss, and the recalls of each split, as far as the history has points."""
  steps, values = metrics_history.train_curve(history)
  if steps:
    raw = Curve("raw", steps, values, "first", faint=True, marker=len(steps) == 1)
    smooth = Curve("smoothed", steps, charts.moving_average(values), "first")
    yield charts.line_chart("Training loss", "raw and smoothed, over optimizer steps", [raw, smooth])
  if curves := _ratio_curves(history):
    note = "l2 norm of the update divided by that of the parameters, over optimizer steps"
    yield charts.line_chart("Size of the updates", note, curves)
  for split, evaluations in metrics_history.evaluations_by_split(history).items():
    if curves := _recall_curves(evaluations):
      note = f"{split}, percent, over optimizer steps"
      yield charts.line_chart("Text-to-video recall", note, curves, max_value=100.0, best_step=best_step)


def _ratio_curves(history: Sequence[Mapping[str, Any]]) -> list[Curve]:
  modules = metrics_history.train_curves(history, metrics_history.UPDATE_RATIO)
  return [
    Curve(name, steps, values, series, dashes, marker=charts.has_markers(steps))
    for (name, (steps, values)), series, dashes in zip(modules.items(), charts.SERIES, _DASHES, strict=False)
    if steps
  ]


def _recall_curves(evaluations: Mapping[int, Mapping[str, Any]]) -> list[Curve]:
  keys_by_name: dict[str, tuple[str, ...]] = {f"R@{k}": ("plain", "text_to_video", f"R@{k}") for k in RECALLS}
  keys_by_name["twin accuracy"] = ("twins", "accuracy")
  curves = []
  for (name, keys), series, dashes in zip(keys_by_name.items(), charts.SERIES, _DASHES, strict=True):
    steps, values = metrics_history.percent_curve(evaluations, *keys)
    if steps:
      curves.append(Curve(name, steps, values, series, dashes, marker=charts.has_markers(steps)))
  return curves
