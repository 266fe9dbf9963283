"""What a study shows: tables of mean and standard deviation over seeds, and curves over steps."""

import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation import confidence
from clipvip_jax.reporting import charts, pages
from clipvip_jax.reporting.results_table import format_metric
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils import atomic_write

# Column -> where a split's results hold it. Shown in percent.
_RECALL = ("plain", "text_to_video", "R@1")
COLUMNS: dict[str, tuple[str, ...]] = {
  "t2v R@1": _RECALL,
  "t2v R@5": ("plain", "text_to_video", "R@5"),
  "v2t R@1": ("plain", "video_to_text", "R@1"),
  "twins": ("twins", "accuracy"),
}
_LINES = [(series, dashes) for dashes in ("-", "--", ":") for series in charts.SERIES]


def arm(runs: Mapping[int, RunResults]) -> dict[str, Any]:
  """Finished runs of an arm by seed -> what study.json holds of it: see `study.write`."""
  return {
    "seeds": len(runs),
    "splits": confidence.mean_and_sd([run.splits for run in runs.values()]),
    "curves": {str(seed): _curve(run.history) for seed, run in runs.items()},
  }


def _curve(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Step -> plain text-to-video R@1 in percent, on the split that the run was evaluated on."""
  evaluated = next(iter(metrics_history.evaluations_by_split(history).values()), {})
  return {str(step): value for step, value in zip(*metrics_history.percent_curve(evaluated, *_RECALL), strict=True)}


def _mean_curve(found: Iterable[Mapping[str, float]]) -> dict[int, float]:
  """The mean of curves, at the steps that all of them have."""
  every = list(found)
  steps = [step for step in every[0] if all(step in curve for curve in every)]
  return {int(step): statistics.fmean(curve[step] for curve in every) for step in steps}


def tables(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
  """[{"title", "split", "columns", "rows": [(name, seeds, cells)]}]: one a comparison and split."""
  found = []
  arms = comparison["arms"]
  for title, group in comparison["groups"].items():
    for split in dict.fromkeys(split for arm in group.values() for split in arms[arm]["splits"]):
      values = {
        name: {column: metrics_history.lookup(arms[arm]["splits"].get(split), keys) for column, keys in COLUMNS.items()}
        for name, arm in group.items()
      }
      columns = [column for column in COLUMNS if any(row[column] for row in values.values())]
      rows = [
        (name, arms[group[name]]["seeds"], [format_metric(COLUMNS[column][-1], row[column]) for column in columns])
        for name, row in values.items()
      ]
      found.append({"title": title, "split": split, "columns": columns, "rows": rows})
  return found


def markdown(comparison: Mapping[str, Any]) -> str:
  """The tables as Markdown."""
  parts = []
  for table in tables(comparison):
    head = ["", "seeds", *table["columns"]]
    lines = [f"**{table['title']}**, {table['split']}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join([name, str(seeds), *cells]) + " |" for name, seeds, cells in table["rows"]]
    parts.append("\n".join(lines))
  return "\n\n".join(parts) + "\n"


def write(folder: pathlib.Path, comparison: Mapping[str, Any]) -> None:
  """study.md and study.html."""
  with atomic_write.atomic_path(folder / "study.md") as temporary:
    temporary.write_text(markdown(comparison), encoding="utf-8")
  plots = [_chart(title, group, comparison["arms"]) for title, group in comparison["groups"].items()]
  page = pages.render("study.html.jinja", title="Study", tables=tables(comparison), charts=plots)
  pages.save_page(folder / "study.html", page)


def _chart(title: str, group: Mapping[str, str], arms: Mapping[str, Any]) -> charts.Chart:
  drawn = []
  for number, (name, arm) in enumerate(group.items()):
    series, dashes = _LINES[number % len(_LINES)]
    if points := _mean_curve(arms[arm]["curves"].values()):
      drawn.append(charts.Curve(name, list(points), list(points.values()), series, dashes, marker=len(points) <= 40))
  return charts.line_chart(title, "text-to-video R@1 while training, percent, mean over seeds", drawn)
