"""Tables of retrieval results: the labels and cells that pages share, and text tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation.retrieval import RECALLS, percent
from clipvip_jax.runs.metrics_history import is_number, lookup
from clipvip_jax.utils.log import printable

GROUPED = "video_to_text_grouped"  # measured only where a video has several captions
# Keys of a split's results in results.json -> labels.
DIRECTIONS = {"text_to_video": "Text to video", "video_to_text": "Video to text", GROUPED: "Video to text, grouped"}
KINDS = {"plain": "Plain", "dsl": "Dual softmax"}
METRICS = {**{f"R@{k}": f"R@{k}" for k in RECALLS}, "median_rank": "Median rank", "mean_rank": "Mean rank"}
MISSING = "\N{EN DASH}"  # in place of a number that was not measured

_NAME_WIDTH, _CELL_WIDTH, _SPREAD_WIDTH = 36, 8, 16  # characters
_DUAL_SOFTMAX_NOTE = (
  "Dual softmax ranks with all queries of the split at once; report it beside the plain numbers, not in their place."
)


def format_metric(name: str, value: Any) -> str:
  """Formats a metric: recalls and accuracies in percent, ranks as they are, a dash for what is not a number.

  Args:
    name: a key of METRICS, or "accuracy".
    value: a number, or {"mean", "sd"} over several models, which gives `31.2 ± 1.4`; sd None gives the mean alone.
  """
  if isinstance(value, Mapping):
    mean, sd = format_metric(name, value["mean"]), value["sd"]
    return mean if sd is None else f"{mean} ± {format_metric(name, sd)}"
  if not is_number(value):
    return MISSING
  return f"{value:,.1f}" if name.endswith("_rank") else percent(value)


def format_metrics(metrics: Mapping[str, Any] | None) -> list[str]:
  """Formats the metrics of one direction as the cells of a table row, one for each of METRICS."""
  return [format_metric(name, (metrics or {}).get(name)) for name in METRICS]


def format_row(name: str, cells: Sequence[str], width: int = _CELL_WIDTH, name_width: int = _NAME_WIDTH) -> str:
  """Formats a row of a text table: a name and one right-aligned cell for each of METRICS."""
  columns = zip(cells, METRICS.values(), strict=True)
  return f"{name:<{name_width}}" + "".join(f"{cell:>{max(width, len(title) + 2)}}" for cell, title in columns)


def format_coverage(metrics: Mapping[str, Any]) -> str:
  """Formats the size of an evaluated split: `998 of 1,000 clips, 2 missing`, or `998 clips` if none is expected."""
  if "expected" not in metrics:
    return f"{metrics['size']:,} clips"
  return f"{metrics['size']:,} of {metrics['expected']:,} clips, {metrics['missing']:,} missing"


def format_split(split: str, metrics: Mapping[str, Any], published: Sequence[Mapping[str, Any]] = ()) -> str:
  """Formats the results of one model on a split as a text table of several lines.

  Args:
    split: name of the split.
    metrics: its results, as `evaluator.measure_retrieval` returns them and results.json holds them.
    published: rows of `published_results.published_rows`, shown beneath.
  """
  widths = (_CELL_WIDTH, _name_width(published))
  lines = [
    *_header(split, metrics),
    f"{format_row('', [*METRICS.values()], *widths)}{_interval_title(metrics)}",
    *(f"{format_row(label, format_metrics(row), *widths)}{_interval(row)}" for label, row in _rows(metrics)),
    *_published(published, *widths),
    _DUAL_SOFTMAX_NOTE,
  ]
  return "\n".join(lines)


def format_spread(
  split: str, spread: Mapping[str, Any], num_models: int, published: Sequence[Mapping[str, Any]] = ()
) -> str:
  """Formats mean and standard deviation of a split's results over several models as a text table.

  Args:
    split: name of the split.
    spread: its results as `confidence.mean_and_sd` returns them.
    num_models: number of models.
    published: rows of `published_results.published_rows`, shown beneath.
  """
  widths = (_SPREAD_WIDTH, _name_width(published))
  accuracy = lookup(spread, ("twins", "accuracy"))
  lines = [
    f"{printable(split)}: mean ± standard deviation of {num_models} models",
    *([] if accuracy is None else [f"twin accuracy, in percent: {format_metric('accuracy', accuracy)}"]),
    format_row("", [*METRICS.values()], *widths),
    *(format_row(label, format_metrics(row), *widths) for label, row in _rows(spread)),
    *_published(published, *widths),
    _DUAL_SOFTMAX_NOTE,
  ]
  return "\n".join(lines)


def _header(split: str, metrics: Mapping[str, Any]) -> list[str]:
  lines = [f"{printable(split)}: {format_coverage(metrics)}; {metrics['queries']:,} queries"]
  if metrics["duplicate_queries"]:
    lines.append(
      f"warning: {metrics['duplicate_queries']:,} of {metrics['queries']:,} queries are not unique: another clip has"
      " the same text, so no model can tell them apart"
    )
  if "twins" in metrics:
    lines.append(f"twin accuracy: {percent(metrics['twins']['accuracy'])}% of {metrics['twins']['count']:,}")
  return lines


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
  """Returns (label, metrics) of each kind and direction."""
  return [
    (_label(direction, kind), metrics[kind][direction])
    for kind in KINDS
    for direction in DIRECTIONS
    if direction in metrics[kind]
  ]


def _label(direction: str, kind: str) -> str:
  return DIRECTIONS[direction] if kind == "plain" else f"{DIRECTIONS[direction]}, {KINDS[kind].lower()}"


def _interval_title(metrics: Mapping[str, Any]) -> str:
  """Returns the title of the intervals' column; "" where they were not computed."""
  return "   95% of R@1" if "R@1_interval" in metrics["plain"]["text_to_video"] else ""


def _interval(metrics: Mapping[str, Any]) -> str:
  bounds = metrics.get("R@1_interval")
  return f"   {percent(bounds[0])} to {percent(bounds[1])}" if bounds else ""


def _published(rows: Sequence[Mapping[str, Any]], width: int, name_width: int) -> list[str]:
  if not rows:
    return []
  lines = [format_row(_published_label(row), format_metrics(row), width, name_width) for row in rows]
  return [f"published on {rows[0]['test_set']}:", *lines]


def _published_label(row: Mapping[str, Any]) -> str:
  label = f"{row['model']} {row['setting']}"
  if row["direction"] != "text_to_video":
    label += f", {DIRECTIONS[row['direction']].lower()}"
  if row["kind"] != "plain":
    label += f", {KINDS[row['kind']].lower()}"
  return label


def _name_width(published: Sequence[Mapping[str, Any]]) -> int:
  return max([_NAME_WIDTH, *(len(_published_label(row)) for row in published)])
