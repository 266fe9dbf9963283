"""Results of a split as lines for a terminal, with what is published beneath them."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation.retrieval import RECALLS, percent
from clipvip_jax.reporting.report import coverage
from clipvip_jax.utils.log import printable

_DIRECTIONS = {"text_to_video": "text to video", "video_to_text": "video to text"}
_KINDS = {"plain": "", "dsl": ", dual softmax"}
_RANKS = ("median_rank", "mean_rank")
_NAME = 34  # columns
_DUAL_SOFTMAX = (
  "Dual softmax ranks with all queries of the split at once: it stands beside the plain numbers, not for them."
)


def lines(split: str, metrics: Mapping[str, Any], published: Sequence[Mapping[str, Any]]) -> list[str]:
  """A split's results of one model.

  Args:
    split: its name.
    metrics: as results.json holds them.
    published: rows of `published_results.published_rows`.
  """
  rows = [
    _row(f"{direction}{kind_title}", metrics[kind][key])
    for kind, kind_title in _KINDS.items()
    for key, direction in _DIRECTIONS.items()
  ]
  return [*_about(split, metrics), _head(7, interval=True), *rows, *_published(published, 7), _DUAL_SOFTMAX]


def spread_lines(
  split: str, spread: Mapping[str, Any], count: int, published: Sequence[Mapping[str, Any]]
) -> list[str]:
  """A split's mean and standard deviation over `count` models; the rest as for `lines`."""
  rows = [
    _row(f"{direction}{kind_title}", spread[kind][key], 14)
    for kind, kind_title in _KINDS.items()
    for key, direction in _DIRECTIONS.items()
  ]
  title = f"{printable(split)}: mean +- standard deviation of {count} models"
  return [title, _head(14), *rows, *_published(published, 14)]


def _about(split: str, metrics: Mapping[str, Any]) -> list[str]:
  found = [f"{printable(split)}: {coverage(metrics)}; {metrics['queries']:,} queries"]
  if metrics["duplicate_queries"]:
    found.append(
      f"warning: {metrics['duplicate_queries']:,} of {metrics['queries']:,} queries are not unique: another clip has"
      " the same words, and no model can tell them apart"
    )
  if "twins" in metrics:
    found.append(f"twins told apart: {percent(metrics['twins']['accuracy'])} of {metrics['twins']['count']:,}")
  return found


def _head(width: int, *, interval: bool = False) -> str:
  names = [*(f"R@{k}" for k in RECALLS), "median", "mean rank"]
  cells = "".join(f"{name:>{max(width, len(name) + 2)}}" for name in names)
  return f"{'':{_NAME}}{cells}{'   95% of R@1' if interval else ''}"


def _row(name: str, metrics: Mapping[str, Any], width: int = 7) -> str:
  cells = [f"{_cell(metrics[f'R@{k}'], 100):>{width}}" for k in RECALLS]
  if _RANKS[0] in metrics:
    cells += [f"{_cell(metrics[_RANKS[0]]):>{max(width, 8)}}", f"{_cell(metrics[_RANKS[1]]):>{max(width, 11)}}"]
  if "R@1_interval" in metrics:
    cells.append("   {} to {}".format(*map(percent, metrics["R@1_interval"])))
  return f"{name:<{_NAME}}{''.join(cells)}"


def _cell(value: Any, scale: int = 1) -> str:
  """A number, or the mean and standard deviation of several."""
  if isinstance(value, Mapping):
    return f"{scale * value['mean']:,.1f} +- {scale * value['sd']:,.1f}"
  return f"{scale * value:,.1f}"


def _published(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
  if not rows:
    return []
  found = [f"published on {rows[0]['test_set']}:"]
  for row in rows:
    direction = "" if row["direction"] == "text_to_video" else f", {_DIRECTIONS[row['direction']]}"
    found.append(_row(f"{row['model']} {row['setting']}{direction}{_KINDS[row['kind']]}", row, width))
  return found
