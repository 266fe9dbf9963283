"""Tables and pages of a study: mean and standard deviation over seeds, and curves over steps."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation import confidence
from clipvip_jax.reporting import charts, pages
from clipvip_jax.reporting.charts import Chart, Curve
from clipvip_jax.reporting.results_table import format_metric
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.metrics_history import lookup
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils import atomic_write

_RECALL = ("plain", "text_to_video", "R@1")
# Column -> keys of its value in a split's results.
COLUMNS: dict[str, tuple[str, ...]] = {
  "t2v R@1": _RECALL,
  "t2v R@5": ("plain", "text_to_video", "R@5"),
  "v2t R@1": ("plain", "video_to_text", "R@1"),
  "twins": ("twins", "accuracy"),
}
_DASHES = ("-", "--", ":")
# Twelve distinct styles; neighbours differ in colour and in dashes.
_STYLES = [(charts.SERIES[n % len(charts.SERIES)], _DASHES[n % len(_DASHES)]) for n in range(12)]


@dataclasses.dataclass(frozen=True)
class StudyTable:
  """Results of one comparison on one split.

  Attributes:
    title: of the comparison.
    split: name of the split.
    columns: those of COLUMNS that have a value.
    rows: name, number of seeds and formatted cells of each variant.
  """

  title: str
  split: str
  columns: Sequence[str]
  rows: Sequence[tuple[str, int, Sequence[str]]]


def summarize_arm(runs: Mapping[int, RunResults]) -> dict[str, Any]:
  """Summarizes the finished runs of an arm, by seed.

  Returns:
    {"seeds", "splits", "curves": {seed: {step: R@1}}}, the entry of the arm in study.json; the numbers of "splits" are
    means and standard deviations over seeds.
  """
  return {
    "seeds": len(runs),
    "splits": confidence.mean_and_sd([run.splits for run in runs.values()]),
    "curves": {str(seed): _recall_curve(run.history) for seed, run in runs.items()},
  }


def _recall_curve(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns step -> plain text-to-video R@1 in percent, on the split that is evaluated during training."""
  evaluations = next(iter(metrics_history.evaluations_by_split(history).values()), {})
  steps, values = metrics_history.percent_curve(evaluations, *_RECALL)
  return {str(step): value for step, value in zip(steps, values, strict=True)}


def _mean_curve(curves: Sequence[Mapping[str, float]]) -> dict[int, float]:
  """Returns the mean of curves at the steps that all of them have."""
  steps = [step for step in curves[0] if all(step in curve for curve in curves)]
  return {int(step): statistics.fmean(curve[step] for curve in curves) for step in steps}


def tables(comparison: Mapping[str, Any]) -> list[StudyTable]:
  """Returns a table for each comparison and split.

  Args:
    comparison: the content of study.json.
  """
  study_tables = []
  arms = comparison["arms"]
  for title, group in comparison["groups"].items():
    for split in dict.fromkeys(split for arm in group.values() for split in arms[arm]["splits"]):
      values = {
        name: {column: lookup(arms[arm]["splits"].get(split), keys) for column, keys in COLUMNS.items()}
        for name, arm in group.items()
      }
      columns = [column for column in COLUMNS if any(row[column] for row in values.values())]
      rows = [
        (name, arms[group[name]]["seeds"], [format_metric(COLUMNS[column][-1], row[column]) for column in columns])
        for name, row in values.items()
      ]
      study_tables.append(StudyTable(title, split, columns, rows))
  return study_tables


def format_markdown(comparison: Mapping[str, Any]) -> str:
  """Formats the warnings and tables of a study as Markdown."""
  blocks = [f"**Warning**: {warning}" for warning in comparison["warnings"]]
  for table in tables(comparison):
    header = ["", "seeds", *table.columns]
    lines = [f"**{table.title}**, {table.split}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join([name, str(seeds), *cells])} |" for name, seeds, cells in table.rows]
    blocks.append("\n".join(lines))
  return "\n\n".join(blocks) + "\n"


def write_study(folder: pathlib.Path, comparison: Mapping[str, Any]) -> None:
  """Writes study.md and study.html atomically.

  Args:
    folder: of the study.
    comparison: the content of study.json.
  """
  with atomic_write.atomic_path(folder / "study.md") as temporary:
    temporary.write_text(format_markdown(comparison), encoding="utf-8")
  plots = [_chart(title, group, comparison["arms"]) for title, group in comparison["groups"].items()]
  page = pages.render(
    "study.html.jinja",
    warnings=comparison["warnings"],
    tables=tables(comparison),
    charts=[plot for plot in plots if plot],
  )
  pages.save_page(folder / "study.html", page)


def _chart(title: str, group: Mapping[str, str], arms: Mapping[str, Any]) -> Chart | None:
  """Draws the mean curve of each variant; None if no variant has one."""
  curves = []
  for number, (name, arm) in enumerate(group.items()):
    series, dashes = _STYLES[number % len(_STYLES)]
    if points := _mean_curve(list(arms[arm]["curves"].values())):
      steps = list(points)
      curves.append(Curve(name, steps, list(points.values()), series, dashes, marker=charts.has_markers(steps)))
  note = "text-to-video R@1 during training, percent, mean over seeds"
  return charts.line_chart(title, note, curves) if curves else None
