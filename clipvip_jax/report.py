"""report.html: one file that a person opens to see how well a model retrieves, and on what it fails.

The page is self-contained (no script, no font, no link to elsewhere) and its content security policy forbids
the rest, since captions come from anybody. The same input gives the same bytes.
"""

import base64
import importlib.resources
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from clipvip_jax import files, workdir
from clipvip_jax.retrieval import RECALLS, percent

DIRECTIONS = {"text_to_video": "Text → video", "video_to_text": "Video → text"}
KINDS = {"plain": "Plain", "dsl": "DSL re-ranked"}
MISSING = "\N{EN DASH}"  # what the page shows for a number nobody measured
MOST_POINTS = 600  # of a curve; more would only make the file larger

# matplotlib draws in these stand-in colours; the page's style sheet gives them their light and dark values.
INK, GRID = "#010203", "#010204"
SERIES = {"first": "#010205", "second": "#010206", "third": "#010207", "fourth": "#010208"}
STYLE_OF_COLOUR = {INK: "muted", GRID: "line", **{colour: name for name, colour in SERIES.items()}}


class Curve(NamedTuple):
  """One line of a chart; `dashes` ("-", "--", "-.", ":") tells it from the others where colour does not."""

  name: str
  steps: Sequence[float]
  values: Sequence[float]
  series: str
  dashes: str = "-"
  faint: bool = False
  marker: bool = False


def write_report(
  path: str | os.PathLike[str],
  results: Mapping[str, Any],
  history: Iterable[Mapping[str, Any]] = (),
  examples: Iterable[Mapping[str, Any]] = (),
) -> None:
  """Writes the report to `path`, whole or not at all.

  Args:
    path: the HTML file; its folder must exist.
    results: {"splits": {name: {"size", "expected", "missing", "queries", "missing_captions", "plain", "dsl", "twins"}},
      "step", "best_step", "num_params", "config", "versions"}: what `retrieval.evaluate` and
      `retrieval.twin_accuracy` return, as results.json holds them. Whatever is absent is left out of the page or shown
      as a dash.
    history: {"kind": "train", "step", "loss"} and {"kind": "eval", "step", "split", "metrics": one split's
      results}, in any order. Of two entries for one step the later one counts.
    examples: {"split", "query", "rank", "top": [{"id", "score", "right", "frames": [JPEG bytes]}]}, best
      video first. They are shown as they come: the caller chooses the queries.

  Raises:
    OSError: the folder is absent or cannot be written; KeyError: an entry of history or examples lacks a key
      named above. A report that stood at `path` before stays as it was.
  """
  path = pathlib.Path(path)
  page = _template().render(_view(results, list(history), examples))
  with files.whole(path) as temporary:
    # "replace": half a surrogate pair in one caption must not cost the report
    temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def _template() -> jinja2.Template:
  source = importlib.resources.files("clipvip_jax").joinpath("report.html.jinja").read_text(encoding="utf-8")
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters["count"] = lambda number: f"{number:,}"
  return environment.from_string(source)


def _view(results: Mapping[str, Any], history: list[Mapping[str, Any]], examples: Iterable) -> dict[str, Any]:
  """-> everything the template shows, formatted."""
  splits = results.get("splits") or {}
  num_params = results.get("num_params")
  return {
    "splits": [_split(name, split) for name, split in splits.items()],
    "step": results.get("step"),
    "best_step": results.get("best_step"),
    "num_params": None if num_params is None else f"{num_params / 1e6:,.1f} M",
    "charts": list(_charts(history, results.get("best_step"))),
    "examples": [_example(example, splits) for example in examples],
    "details": [
      {"title": title, "rows": [(name, _shown(value)) for name, value in workdir.flat(results[key])]}
      for key, title in (("config", "Configuration"), ("versions", "Versions"))
      if results.get(key)
    ],
  }


def _split(name: str, split: Mapping[str, Any]) -> dict[str, Any]:
  """One split's tables; chance is what a ranking at random would reach on average."""
  size = split.get("size")
  ranks = {"median_rank": (size + 1) / 2, "mean_rank": (size + 1) / 2} if size else {}
  chance = {**{f"R@{k}": min(k / size, 1.0) for k in RECALLS}, **ranks} if size else {}
  tables = []
  for kind, title in KINDS.items():
    rows = [(label, _cells((split.get(kind) or {}).get(key))) for key, label in DIRECTIONS.items()]
    tables.append({"title": title, "rows": rows, "chance": _cells(chance)})
  twins = split.get("twins") or {}
  recall = ((split.get("plain") or {}).get("text_to_video") or {}).get("R@1")
  return {
    "name": name,
    "size": size,
    "coverage": coverage(split) if size else "",
    "queries": split.get("queries") if split.get("queries") != size else None,
    "missing": split.get("missing_captions") or 0,
    "tables": tables,
    "recall": _meter(recall, chance.get("R@1")),
    "twins": _meter(twins.get("accuracy"), 0.5),
    "twins_count": twins.get("count"),
  }


def coverage(split: Mapping[str, Any]) -> str:
  """`998 of 1,000 clips, 2 missing`, from a split's results; `998 clips` where nobody counted what is missing."""
  if "expected" not in split:
    return f"{split['size']:,} clips"
  return f"{split['size']:,} of {split['expected']:,} clips, {split['missing']:,} missing"


def _meter(value: float | None, chance: float | None) -> dict[str, str | None] | None:
  """A fraction and its chance level, in percent, or None where it was not measured."""
  if value is None or not math.isfinite(value):
    return None
  return {"value": percent(value), "chance": None if chance is None else percent(chance)}


def _cells(metrics: Mapping[str, float] | None) -> list[str]:
  """Metrics of `retrieval.rank_metrics` -> the texts of a table row: recalls in percent, then the ranks."""
  metrics = metrics or {}
  names = [f"R@{k}" for k in RECALLS]
  cells = [percent(metrics[name]) if _is_number(metrics.get(name)) else MISSING for name in names]
  for name in ("median_rank", "mean_rank"):
    value = metrics.get(name)
    cells.append(f"{value:,.1f}" if _is_number(value) else MISSING)
  return cells


def _example(example: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, Any]:
  """A query and its best videos; JPEG bytes become data: URIs, which is what keeps the page one file."""
  videos = [
    {
      "id": video["id"],
      "score": f"{video['score']:.3f}",
      "right": bool(video["right"]),
      "frames": ["data:image/jpeg;base64," + base64.b64encode(frame).decode("ascii") for frame in video["frames"]],
    }
    for video in example["top"]
  ]
  return {
    "split": example["split"],
    "query": example["query"],
    "rank": example["rank"],
    "of": (splits.get(example["split"]) or {}).get("size"),
    "videos": videos,
    "found": any(video["right"] for video in videos),
  }


def _shown(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value, default=str)


def _charts(history: list[Mapping[str, Any]], best_step: int | None) -> Iterator[dict[str, Any]]:
  """-> the charts for which the history holds a point: the loss, and the recalls of each split."""
  losses = {entry["step"]: entry.get("loss") for entry in history if entry["kind"] == "train"}
  if curves := _loss_curves(losses):
    yield _chart("Training loss", "raw and smoothed, over optimiser steps", curves)
  by_split: dict[str, dict[int, Mapping[str, Any]]] = {}
  for entry in history:
    if entry["kind"] == "eval":
      by_split.setdefault(entry["split"], {})[entry["step"]] = entry["metrics"]
  for split, evaluations in by_split.items():
    if curves := _recall_curves(evaluations):
      note = f"{split}, percent, over optimiser steps"
      yield _chart("Text-to-video recall", note, curves, top=100.0, best_step=best_step)


def _loss_curves(losses: Mapping[int, float | None]) -> list[Curve]:
  points = sorted((step, loss) for step, loss in losses.items() if _is_number(loss))
  if not points:
    return []
  steps, values = zip(*points, strict=True)
  smooth = _smoothed(values)
  # rounded so that the first and the last point always stay
  kept = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))
  kept_steps = [steps[i] for i in kept]
  return [
    Curve("raw", kept_steps, [values[i] for i in kept], "first", faint=True, marker=len(points) == 1),
    Curve("smoothed", kept_steps, [smooth[i] for i in kept], "first"),
  ]


def _recall_curves(evaluations: Mapping[int, Mapping[str, Any]]) -> list[Curve]:
  wanted: dict[str, tuple[str, ...]] = {f"R@{k}": ("plain", "text_to_video", f"R@{k}") for k in RECALLS}
  wanted["twins accuracy"] = ("twins", "accuracy")
  order = sorted(evaluations)
  curves = []
  for (name, keys), series, dashes in zip(wanted.items(), SERIES, ("-", "--", "-.", ":"), strict=True):
    points = [(step, 100 * value) for step in order if _is_number(value := _at(evaluations[step], keys))]
    if points:
      steps, values = zip(*points, strict=True)
      curves.append(Curve(name, steps, values, series, dashes, marker=len(points) <= 40))
  return curves


def _at(tree: Any, keys: Iterable[str]) -> Any:
  for key in keys:
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree


def _is_number(value: Any) -> bool:
  """Whether there is a finite number to show; a loss that became NaN has no place on a curve."""
  return value is not None and math.isfinite(value)


def _smoothed(values: Sequence[float]) -> list[float]:
  """Exponential moving average over about a thirtieth of the curve, without the pull of its zero start."""
  keep = 1 - 2 / (1 + max(1, len(values) / 30))
  total = weight = 0.0
  smooth = []
  for value in values:
    total, weight = keep * total + value, keep * weight + 1
    smooth.append(total / weight)
  return smooth


def _chart(
  title: str, note: str, curves: list[Curve], top: float | None = None, best_step: int | None = None
) -> dict[str, Any]:
  """-> title, note, legend and inline SVG of a chart; `top` fixes the value axis to 0 .. top."""
  label = f"{title} ({note}): " + "; ".join(
    f"{curve.name} from {curve.values[0]:.4g} at step {curve.steps[0]} to {curve.values[-1]:.4g} at step "
    f"{curve.steps[-1]}"
    for curve in curves
  )
  return {
    "title": title,
    "note": note,
    "label": label,
    "legend": [curve._asdict() for curve in curves],
    "best_step": best_step,
    "svg": markupsafe.Markup(_svg(curves, top, best_step, salt=label)),
  }


def _svg(curves: list[Curve], top: float | None, best_step: int | None, salt: str) -> str:
  """Draws the curves; text stays text and colours become the page's own, so that dark mode reaches them."""
  import matplotlib  # here, because it takes most of a second that only a report has to pay
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9})
    figure = Figure(figsize=(4.8, 2.5), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    _style(axes, top)
    if best_step is not None:
      axes.axvline(best_step, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for curve in curves:
      axes.plot(
        curve.steps,
        curve.values,
        curve.dashes,
        color=SERIES[curve.series],
        alpha=0.3 if curve.faint else 1,
        linewidth=0.9 if curve.faint else 1.7,
        marker="o" if curve.marker else None,
        markersize=3.2,
        clip_on=False,  # 0 and 100 percent lie on the frame; half a line would be cut
      )
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
  return _inline(file.getvalue())


def _style(axes: Any, top: float | None) -> None:
  from matplotlib.ticker import MaxNLocator, StrMethodFormatter

  axes.patch.set_visible(False)
  axes.spines[["top", "right", "left"]].set_visible(False)
  axes.spines["bottom"].set_color(GRID)
  axes.grid(axis="y", color=GRID, linewidth=0.6)
  axes.set_axisbelow(True)
  axes.tick_params(colors=INK, length=0, pad=5)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
  if top is not None:
    axes.set_ylim(0, top)
    axes.set_yticks(np.linspace(0, top, 5))


def _inline(svg: str) -> str:
  """A stand-alone SVG file -> an element that can stand beside others in one page."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same names in every figure
  svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
  svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
  for colour, name in STYLE_OF_COLOUR.items():
    svg = svg.replace(colour, f"var(--{name})")
  return svg
