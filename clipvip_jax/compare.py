"""Two runs side by side: how their results, curves and configurations differ.

  python -m clipvip_jax.compare RUN_A RUN_B [--html=compare.html]

RUN is the workdir of a run that has finished, or of an evaluation of one model. Differences are B minus A; recalls are
in percent. What makes the numbers of two runs no comparison, as other clips, is said first. Exit codes: 0 done; 2 bad
input.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipvip_jax.reporting import charts, pages, report
from clipvip_jax.reporting.charts import Curve
from clipvip_jax.reporting.results_table import DIRECTIONS, KINDS, METRICS, MISSING, format_metrics, format_row
from clipvip_jax.runs import metrics_history
from clipvip_jax.runs.metrics_history import is_number
from clipvip_jax.runs.results import RunResults, read_results
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable

_SERIES = {"A": ("first", "-"), "B": ("third", "--")}
# Of the configuration, what decides what is asked.
_QUESTIONS = ("evaluate.query", "evaluate.protocol")


def compare(a: RunResults, b: RunResults) -> dict[str, Any]:
  """What the page shows, and `lines` prints.

  Raises:
    UserError: the runs have no split in common.
  """
  shared = [name for name in a.splits if name in b.splits]
  if not shared:
    there = "; ".join(f"{one.folder} has {', '.join(one.splits) or 'none'}" for one in (a, b))
    raise UserError(f"the runs have no split in common: {there}")
  return {
    "runs": [_about("A", a), _about("B", b)],
    "warnings": list(_warnings(a, b, shared)),
    "notes": list(_alone(a, b)),
    "splits": [{"name": name, **_split(a.splits[name], b.splits[name])} for name in shared],
    "charts": list(_charts({"A": a, "B": b})),
    "config": _differences(a.config, b.config),
    "versions": _differences(a.results.get("versions") or {}, b.results.get("versions") or {}),
  }


def _about(name: str, one: RunResults) -> dict[str, Any]:
  numbers = {key: one.results.get(key) for key in ("best_step", "num_params")}
  return {
    "name": name,
    "folder": printable(str(one.folder)),
    "corpus": str(one.corpus.get("name", MISSING)),
    **{key: f"{value:,}" if is_number(value) else MISSING for key, value in numbers.items()},
  }


def _warnings(a: RunResults, b: RunResults, shared: Sequence[str]) -> Iterator[str]:
  """Why the numbers do not compare."""
  for name, one, other in _differences(a.corpus, b.corpus):
    yield f"evaluated on other corpora: {name} is {one} in A and {other} in B"
  for name in shared:
    for key, what in (("size", "clips"), ("queries", "queries"), ("missing", "missing clips")):
      one, other = a.splits[name].get(key), b.splits[name].get(key)
      if one != other and None not in (one, other):
        yield f"split {name}: A has {one} {what}, B has {other}"
  questions = [{key: one.config[key] for key in _QUESTIONS if key in one.config} for one in (a, b)]
  for name, one, other in _differences(*questions):
    yield f"asked otherwise: {name} is {one} in A and {other} in B"


def _alone(a: RunResults, b: RunResults) -> Iterator[str]:
  """Splits that are not compared."""
  for name, one, other in (("A", a, b), ("B", b, a)):
    if alone := [split for split in one.splits if split not in other.splits]:
      yield f"only {name} has the split {', '.join(alone)}"


def _split(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
  """A split's tables: rows A, B and their difference."""
  tables = []
  for kind, title in KINDS.items():
    for direction, label in DIRECTIONS.items():
      found = [metrics_history.lookup(split, (kind, direction)) for split in (a, b)]
      metrics = [row if isinstance(row, Mapping) else {} for row in found]
      rows = [(name, format_metrics(row)) for name, row in zip("AB", metrics, strict=True)]
      tables.append({"title": f"{label}, {title.lower()}", "rows": rows, "difference": _difference(*metrics)})
  twins = [metrics_history.lookup(split, ("twins", "accuracy")) for split in (a, b)]
  return {"sizes": [a["size"], b["size"]], "tables": tables, "twins": _twins(*twins)}


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, str]]:
  """`text`, B minus A, and `better`, "A", "B" or "" where they are equal."""
  cells = []
  for name in METRICS:
    one, other = a.get(name), b.get(name)
    if is_number(one) and is_number(other):
      is_recall = name.startswith("R@")
      cells.append(_signed(100 * (other - one) if is_recall else other - one, more_is_better=is_recall))
    else:
      cells.append({"text": MISSING, "better": ""})
  return cells


def _signed(value: float, *, more_is_better: bool) -> dict[str, str]:
  text = f"{value:+,.1f}"
  if float(text.replace(",", "")) == 0:
    return {"text": "0.0", "better": ""}
  return {"text": text, "better": "B" if (value > 0) == more_is_better else "A"}


def _twins(a: Any, b: Any) -> dict[str, Any] | None:
  if not is_number(a) or not is_number(b):
    return None
  return {"A": f"{100 * a:.1f}", "B": f"{100 * b:.1f}", "difference": _signed(100 * (b - a), more_is_better=True)}


def _charts(runs: Mapping[str, RunResults]) -> Iterator[dict[str, Any]]:
  """Loss, and R@1 of every split that one of the runs was evaluated on, of both runs in one chart."""
  losses = {name: metrics_history.loss_curve(one.history) for name, one in runs.items()}
  smooth = {name: (steps, charts.smoothed(values)) for name, (steps, values) in losses.items() if steps}
  named = [str(runs[name].config.get("loss")) for name in smooth]
  note = "smoothed, over optimiser steps"
  if len(set(named)) > 1:
    note += f"; A's loss is {named[0]}, B's is {named[1]}: their values do not compare"
  yield from _chart("Training loss", note, smooth)
  evaluated = {name: metrics_history.evaluations_by_split(one.history) for name, one in runs.items()}
  for split in dict.fromkeys(split for found in evaluated.values() for split in found):
    points = {
      name: metrics_history.percent_curve(found.get(split, {}), "plain", "text_to_video", "R@1")
      for name, found in evaluated.items()
    }
    yield from _chart("Text-to-video R@1", f"{split}, percent, over optimiser steps", points, top=100.0)


def _chart(
  title: str, note: str, points: Mapping[str, metrics_history.Points], top: float | None = None
) -> Iterator[dict[str, Any]]:
  lines = [
    Curve(name, steps, values, *_SERIES[name], marker=len(steps) <= 40)
    for name, (steps, values) in points.items()
    if steps
  ]
  if lines:
    yield charts.lines(title, note, lines, top=top)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
  """(name, A's value, B's) of what differs; a dash stands where one has none."""

  def text(values: Mapping[str, Any], name: str) -> str:
    return report.shown(values[name]) if name in values else MISSING

  names = sorted(a.keys() | b.keys())
  rows = [(name, text(a, name), text(b, name)) for name in names]
  return [row for row in rows if row[1] != row[2]]


def lines(found: Mapping[str, Any]) -> Iterator[str]:
  """The same for a terminal."""
  for one in found["runs"]:
    yield f"{one['name']}: {one['folder']}, evaluated on {one['corpus']}"
  yield from (f"warning: {words}" for words in found["warnings"])
  yield from found["notes"]
  for split in found["splits"]:
    yield ""
    yield f"{split['name']}: {split['sizes'][0]:,} clips in A, {split['sizes'][1]:,} in B"
    yield format_row("", [*METRICS.values()])
    for table in split["tables"]:
      difference = [cell["text"] for cell in table["difference"]]
      for name, cells in (*table["rows"], ("B - A", difference)):
        title = table["title"] if name == "A" else ""
        yield format_row(f"{title:<30}{name}", cells)
    if twins := split["twins"]:
      yield f"Twins told apart: A {twins['A']}, B {twins['B']}, B - A {twins['difference']['text']}"
  for title, rows in (("Configuration", found["config"]), ("Versions", found["versions"])):
    yield ""
    yield f"{title}: {'A | B, where they differ' if rows else 'the same'}"
    yield from (f"  {name}: {one} | {other}" for name, one, other in rows)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, compares, prints."""
  parser = Parser(__doc__)
  parser.add_argument("runs", metavar="RUN", nargs=2, type=pathlib.Path)
  parser.add_argument("--html", type=pathlib.Path, help="a page to write, with curves")
  options = parser.parse_args(argv)
  if options.html and not options.html.resolve().parent.is_dir():
    raise UserError(f"--html={options.html}: its folder does not exist")
  found = compare(*map(read_results, options.runs))
  for line in lines(found):
    print(printable(line))
  if options.html:
    pages.write_page(options.html, pages.render("compare.html.jinja", titles=[*METRICS.values()], **found), "--html")
    log.info("wrote %s", options.html)


if __name__ == "__main__":
  run_command(main)
