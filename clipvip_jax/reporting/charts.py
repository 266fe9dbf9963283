"""Charts as inline SVG: `chart` of macros.html.jinja shows in a page what `lines` and `bars` give.

Text stays text and colours are the page's own, so that light and dark reach them. The same input gives the same bytes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np

MOST_POINTS = 600  # of a curve; more would only make the file larger

# matplotlib draws in these stand-in colours; the page's style sheet gives them their light and dark values.
INK, GRID = "#010203", "#010204"
SERIES = {"first": "#010205", "second": "#010206", "third": "#010207", "fourth": "#010208"}
_STYLE_OF_COLOUR = {INK: "muted", GRID: "line", **{colour: name for name, colour in SERIES.items()}}
_WIDTH = 4.8  # inches


class Curve(NamedTuple):
  """One line of a chart; `dashes` ("-", "--", "-.", ":") tells it from the others where colour does not."""

  name: str
  steps: Sequence[float]
  values: Sequence[float]
  series: str
  dashes: str = "-"
  faint: bool = False
  marker: bool = False


def smoothed(values: Sequence[float]) -> list[float]:
  """Exponential moving average over about a thirtieth of the curve, without the pull of its zero start."""
  keep = 1 - 2 / (1 + max(1, len(values) / 30))
  total = weight = 0.0
  smooth = []
  for value in values:
    total, weight = keep * total + value, keep * weight + 1
    smooth.append(total / weight)
  return smooth


def lines(
  title: str, note: str, curves: Sequence[Curve], top: float | None = None, best_step: int | None = None
) -> dict[str, Any]:
  """Curves over steps -> a chart.

  Args:
    title: what is drawn.
    note: of what, in what unit. On one page, title and note together name one chart.
    curves: at least one, each with a point; those that are long are thinned.
    top: fixes the value axis to 0 .. top.
    best_step: a step to mark.
  """
  label = f"{title} ({note}): " + "; ".join(
    f"{curve.name} from {curve.values[0]:.4g} at step {curve.steps[0]} to {curve.values[-1]:.4g} at step "
    f"{curve.steps[-1]}"
    for curve in curves
  )

  def draw(axes):
    _style(axes, top)
    if best_step is not None:
      axes.axvline(best_step, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for curve in map(_thinned, curves):
      _draw_curve(axes, curve)

  return {
    "title": title,
    "note": note,
    "label": label,
    "legend": [{name: getattr(curve, name) for name in ("name", "series", "dashes", "faint")} for curve in curves],
    "best_step": best_step,
    "svg": _svg(draw, 2.5, salt=label),
  }


def bars(title: str, note: str, counts: Mapping[str, int]) -> dict[str, Any]:
  """Counts by name, at least one -> a chart of bars that lie, each with its count and its share of all."""
  total = sum(counts.values())
  said = [f"{count:,} ({count / total:.1%})" if total else f"{count:,}" for count in counts.values()]
  label = f"{title} ({note}): " + "; ".join(f"{name}: {text}" for name, text in zip(counts, said, strict=True))

  def draw(axes):
    axes.barh(list(counts), list(counts.values()), height=0.7, color=SERIES["first"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(1, *counts.values()))  # room for what stands behind the longest bar
    for row, (count, text) in enumerate(zip(counts.values(), said, strict=True)):
      axes.annotate(text, (count, row), xytext=(4, 0), textcoords="offset points", va="center_baseline", color=INK)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(GRID)
    axes.xaxis.set_visible(False)
    axes.tick_params(colors=INK, length=0, pad=5)

  svg = _svg(draw, 0.3 + 0.22 * len(counts), salt=label)
  return {"title": title, "note": note, "label": label, "legend": [], "best_step": None, "svg": svg}


def _thinned(curve: Curve) -> Curve:
  # Rounded so that the first and the last point always stay.
  kept = np.unique(np.linspace(0, len(curve.steps) - 1, MOST_POINTS).round().astype(int))
  return curve._replace(steps=[curve.steps[i] for i in kept], values=[curve.values[i] for i in kept])


def _draw_curve(axes: Any, curve: Curve) -> None:
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


def _svg(draw: Any, height: float, salt: str) -> markupsafe.Markup:
  """What `draw` puts on the axes that it is given, as an element of a page; `salt` makes its ids its own."""
  import matplotlib  # here, because it takes most of a second that only a page with charts has to pay
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9})
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_visible(False)
    draw(figure.add_subplot())
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
  return markupsafe.Markup(_inline(file.getvalue()))


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
  for colour, name in _STYLE_OF_COLOUR.items():
    svg = svg.replace(colour, f"var(--{name})")
  return svg
