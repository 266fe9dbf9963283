"""Comparison of two runs: results, curves, configurations and versions, as a page and as text.

Differences are B minus A.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from clipvip_jax.reporting import charts, pages
from clipvip_jax.reporting.charts import Chart, Curve, Series
from clipvip_jax.reporting.report import format_value
from clipvip_jax.reporting.results_table import (
  DIRECTIONS,
  GROUPED,
  KINDS,
  METRICS,
  MISSING,
  format_metric,
  format_metrics,
  format_row,
)
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.metrics_history import is_number, lookup
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_STYLES: dict[str, tuple[Series, str]] = {"A": ("first", "-"), "B": ("third", "--")}
_COUNTS = {"size": "clips", "queries": "queries", "missing": "missing clips"}
# Fields of the configuration that decide which queries are ranked.
_QUERY_FIELDS = ("evaluate.query", "evaluate.protocol")
_TITLE_WIDTH = 30  # characters, at least


@dataclasses.dataclass(frozen=True)
class RunSummary:
  """A run, with formatted numbers; `name` is "A" or "B"."""

  name: str
  folder: str
  corpus: str
  best_step: str
  num_params: str


@dataclasses.dataclass(frozen=True)
class Difference:
  """A formatted difference B - A, and the better run, "" if they are equal or one number is missing."""

  text: str
  better: Literal["A", "B", ""]


@dataclasses.dataclass(frozen=True)
class MetricsTable:
  """Formatted metrics of both runs for one kind of result and one direction, one cell for each of METRICS."""

  title: str
  a: Sequence[str]
  b: Sequence[str]
  difference: Sequence[Difference]


@dataclasses.dataclass(frozen=True)
class TwinAccuracy:
  """Formatted accuracies of both runs on twins, in percent."""

  a: str
  b: str
  difference: Difference


@dataclasses.dataclass(frozen=True)
class SplitComparison:
  """Results on a split of both runs, which have `sizes` clips of it."""

  name: str
  sizes: tuple[int, int]
  tables: Sequence[MetricsTable]
  twins: TwinAccuracy | None


@dataclasses.dataclass(frozen=True)
class FieldDifference:
  """A field with different values in A and B; a dash where it is missing."""

  name: str
  a: str
  b: str


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two runs side by side.

  Attributes:
    runs: A and B.
    warnings: reasons why the numbers are not comparable.
    notes: splits, and parts of the configuration and versions, that only one of the runs has.
    splits: results on the splits that both have.
    charts: training curves of both.
    config: fields of the configuration that differ, without those of `notes`.
    versions: versions that differ, without those of `notes`.
  """

  runs: tuple[RunSummary, RunSummary]
  warnings: Sequence[str]
  notes: Sequence[str]
  splits: Sequence[SplitComparison]
  charts: Sequence[Chart]
  config: Sequence[FieldDifference]
  versions: Sequence[FieldDifference]


def compare_runs(a: RunResults, b: RunResults) -> Comparison:
  """Compares two runs on the splits that both are evaluated on.

  Raises:
    UserError: they have no split in common.
  """
  common = [name for name in a.splits if name in b.splits]
  if not common:
    splits = "; ".join(f"{run.folder} has {', '.join(run.splits) or 'none'}" for run in (a, b))
    raise UserError(f"the runs have no split in common ({splits}); evaluate both on the same split")
  return Comparison(
    runs=(_summary("A", a), _summary("B", b)),
    warnings=list(_warnings(a, b, common)),
    notes=list(_notes(a, b)),
    splits=[_compare_split(name, a.splits[name], b.splits[name]) for name in common],
    charts=list(_charts({"A": a, "B": b})),
    config=_field_differences(*_comparable(a.config, b.config)),
    versions=_field_differences(*_comparable(_versions(a), _versions(b))),
  )


def _summary(name: str, run: RunResults) -> RunSummary:
  def count(key: str) -> str:
    value = run.results.get(key)
    return f"{value:,}" if is_number(value) else MISSING

  corpus = str(run.corpus.get("name", MISSING))
  return RunSummary(name, printable(str(run.folder)), corpus, count("best_step"), count("num_params"))


def _warnings(a: RunResults, b: RunResults, common: Sequence[str]) -> Iterator[str]:
  for name, run in (("A", a), ("B", b)):
    if run.extended:
      yield f"{name} was extended, and its results are of step {run.results.get('step')}, before: finish the run"
  unknown = [name for name, run in (("A", a), ("B", b)) if not run.corpus]
  if len(unknown) == 1:
    yield f"the corpus of {unknown[0]} is unknown"
  for field in _field_differences(a.corpus, b.corpus) if not unknown else ():
    yield f"evaluated on different corpora: {field.name} is {field.a} in A and {field.b} in B"
  for name in common:
    for key, unit in _COUNTS.items():
      count_a, count_b = a.splits[name].get(key), b.splits[name].get(key)
      if count_a != count_b and None not in (count_a, count_b):
        yield f"split {name}: A has {count_a} {unit}, B has {count_b}"
  query_fields = [{key: run.config[key] for key in _QUERY_FIELDS if key in run.config} for run in (a, b)]
  for field in _field_differences(*query_fields):
    yield f"evaluated with different queries: {field.name} is {field.a} in A and {field.b} in B"


def _notes(a: RunResults, b: RunResults) -> Iterator[str]:
  for name, run, other in (("A", a, b), ("B", b, a)):
    if splits := [split for split in run.splits if split not in other.splits]:
      yield f"only {name} has the split {', '.join(splits)}"
    for label, own, others in (
      ("configuration", run.config, other.config),
      ("versions", _versions(run), _versions(other)),
    ):
      if fields := _incomparable(own, others):
        yield f"only {name} has fields of the {label} ({len(fields)}: {', '.join(sorted(_sections(fields)))})"


def _versions(run: RunResults) -> Mapping[str, Any]:
  return run.results.get("versions") or {}


def _sections(fields: Iterable[str]) -> set[str]:
  return {name.partition(".")[0] for name in fields}


def _incomparable(fields: Mapping[str, Any], others: Mapping[str, Any]) -> set[str]:
  """Returns the fields that the others lack, if whole sections are among them: an evaluation has none of training."""
  is_partial = not others or _sections(name for name in fields if "." in name) - _sections(others)
  return fields.keys() - others.keys() if is_partial else set()


def _comparable(*sides: Mapping[str, Any]) -> list[dict[str, Any]]:
  return [
    {name: fields[name] for name in fields.keys() - _incomparable(fields, others)}
    for fields, others in (sides, sides[::-1])
  ]


def _compare_split(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> SplitComparison:
  tables = []
  for kind, kind_label in KINDS.items():
    for direction, label in DIRECTIONS.items():
      rows = [lookup(split, (kind, direction)) for split in (a, b)]
      if direction == GROUPED and rows == [None, None]:  # one caption per video
        continue
      row_a, row_b = (row if isinstance(row, Mapping) else {} for row in rows)
      differences = [metric_difference(metric, row_a.get(metric), row_b.get(metric)) for metric in METRICS]
      title = f"{label}, {kind_label.lower()}"
      tables.append(MetricsTable(title, format_metrics(row_a), format_metrics(row_b), differences))
  twins = None
  accuracy_a, accuracy_b = (lookup(split, ("twins", "accuracy")) for split in (a, b))
  if is_number(accuracy_a) and is_number(accuracy_b):
    text_a, text_b = (format_metric("accuracy", accuracy) for accuracy in (accuracy_a, accuracy_b))
    twins = TwinAccuracy(text_a, text_b, metric_difference("accuracy", accuracy_a, accuracy_b))
  return SplitComparison(name, (a["size"], b["size"]), tables, twins)


def metric_difference(metric: str, a: Any, b: Any) -> Difference:
  """Formats B - A of a metric, in percent unless it is a rank; a smaller rank is better."""
  if not is_number(a) or not is_number(b):
    return Difference(MISSING, "")
  is_rank = metric.endswith("_rank")
  value = b - a if is_rank else 100 * (b - a)
  text = f"{value:+,.1f}"
  if float(text.replace(",", "")) == 0:
    return Difference("0.0", "")
  return Difference(text, "A" if (value > 0) == is_rank else "B")


def _charts(runs: Mapping[str, RunResults]) -> Iterator[Chart]:
  """Draws the loss, and R@1 of every split that a run is evaluated on during training, both runs in one chart."""
  losses = {name: metrics_history.train_curve(run.history) for name, run in runs.items()}
  smooth = {name: (steps, charts.moving_average(values)) for name, (steps, values) in losses.items() if steps}
  loss_names = [str(runs[name].config.get("loss")) for name in smooth]
  note = "smoothed, over optimizer steps"
  if len(set(loss_names)) > 1:
    note += f"; A's loss is {loss_names[0]}, B's is {loss_names[1]}: their values are not comparable"
  yield from _chart("Training loss", note, smooth)
  evaluations = {name: metrics_history.evaluations_by_split(run.history) for name, run in runs.items()}
  for split in dict.fromkeys(split for by_split in evaluations.values() for split in by_split):
    recalls = {
      name: metrics_history.percent_curve(by_split.get(split, {}), "plain", "text_to_video", "R@1")
      for name, by_split in evaluations.items()
    }
    yield from _chart("Text-to-video R@1", f"{split}, percent, over optimizer steps", recalls, max_value=100.0)


def _chart(
  title: str, note: str, points: Mapping[str, metrics_history.Points], max_value: float | None = None
) -> Iterator[Chart]:
  curves = [
    Curve(name, steps, values, *_STYLES[name], marker=charts.has_markers(steps))
    for name, (steps, values) in points.items()
    if steps
  ]
  if curves:
    yield charts.line_chart(title, note, curves, max_value=max_value)


def _field_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[FieldDifference]:
  def text(fields: Mapping[str, Any], name: str) -> str:
    return format_value(fields[name]) if name in fields else MISSING

  fields = [FieldDifference(name, text(a, name), text(b, name)) for name in sorted(a.keys() | b.keys())]
  return [field for field in fields if field.a != field.b]


def write_comparison_page(path: pathlib.Path, comparison: Comparison, flag: str) -> None:
  """Writes the comparison as one self-contained page.

  Raises:
    UserError: `path`, which the flag sets, cannot be written.
  """
  values = {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}
  pages.write_page(path, pages.render("compare.html.jinja", columns=[*METRICS.values()], **values), flag)


def comparison_lines(comparison: Comparison) -> Iterator[str]:
  """Yields the comparison as lines of text, not yet made safe for a terminal."""
  for run in comparison.runs:
    yield f"{run.name}: {run.folder}, evaluated on {run.corpus}"
  yield from (f"warning: {text}" for text in comparison.warnings)
  yield from comparison.notes
  for split in comparison.splits:
    yield ""
    yield f"{split.name}: {split.sizes[0]:,} clips in A, {split.sizes[1]:,} in B"
    width = max(_TITLE_WIDTH, *(len(table.title) + 1 for table in split.tables))
    row = functools.partial(format_row, name_width=width + len("B - A "))
    yield row("", [*METRICS.values()])
    for table in split.tables:
      yield row(f"{table.title:<{width}}A", table.a)
      yield row(f"{'':<{width}}B", table.b)
      yield row(f"{'':<{width}}B - A", [cell.text for cell in table.difference])
    if twins := split.twins:
      yield f"Twin accuracy: A {twins.a}, B {twins.b}, B - A {twins.difference.text}"
  for title, fields in (("Configuration", comparison.config), ("Versions", comparison.versions)):
    yield ""
    yield f"{title}: {'A | B, where they differ' if fields else 'no differences'}"
    yield from (f"  {field.name}: {field.a} | {field.b}" for field in fields)
