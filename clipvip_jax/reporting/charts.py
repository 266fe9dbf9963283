"""Line and bar charts as inline SVG, drawn by matplotlib.

The macro `chart` of templates/macros.html.jinja shows them in a page. Text stays text and colours are CSS variables of
the page, so that charts follow its light and dark schemes. Equal input gives byte-identical charts. `report.py` selects
those of a report.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

import markupsafe
import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes

MAX_POINTS = 600  # of a curve; more only enlarge the file

Series = Literal["first", "second", "third", "fourth"]  # CSS variables of style.css.jinja

# matplotlib draws in these placeholder colours, which are then replaced by CSS variables.
_INK, _GRID = "#010203", "#010204"
_SERIES: dict[Series, str] = {"first": "#010205", "second": "#010206", "third": "#010207", "fourth": "#010208"}
_VARIABLES = {_INK: "muted", _GRID: "line", **{colour: name for name, colour in _SERIES.items()}}
SERIES = tuple(_SERIES)
_WIDTH = 4.8  # inches
_XML_NAMESPACES = ("{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}")


@dataclasses.dataclass(frozen=True)
class Curve:
  """A curve of a line chart.

  Attributes:
    name: shown in the legend.
    steps: x coordinates, ascending.
    values: y coordinates, as many.
    series: colour.
    dashes: "-", "--", "-." or ":", which distinguishes curves without colour.
    faint: whether it is drawn thin and translucent.
    marker: whether its points are marked.
  """

  name: str
  steps: Sequence[float]
  values: Sequence[float]
  series: Series
  dashes: str = "-"
  faint: bool = False
  marker: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
  """A chart for the macro `chart`.

  Attributes:
    title: heading.
    note: caption: what is drawn, and in which unit.
    label: all of it in words, for screen readers.
    svg: an `<svg>` element.
    legend: the curves, in order.
    best_step: a step that is marked.
  """

  title: str
  note: str
  label: str
  svg: markupsafe.Markup
  legend: Sequence[Curve] = ()
  best_step: int | None = None


def moving_average(values: Sequence[float]) -> list[float]:
  """Returns the exponential moving average over about a thirtieth of the curve, corrected for its zero start."""
  decay = 1 - 2 / (1 + max(1, len(values) / 30))
  total = weight = 0.0
  averages = []
  for value in values:
    total, weight = decay * total + value, decay * weight + 1
    averages.append(total / weight)
  return averages


def has_markers(steps: Sequence[float]) -> bool:
  """Returns whether a curve has so few points that markers do not overlap."""
  return len(steps) <= 40


def line_chart(
  title: str, note: str, curves: Sequence[Curve], max_value: float | None = None, best_step: int | None = None
) -> Chart:
  """Draws curves over steps.

  Args:
    title: heading of the chart.
    note: what is drawn, and in which unit. Title and note together must be unique in a page.
    curves: at least one, each with at least one point; long ones are thinned to MAX_POINTS.
    max_value: fixes the value axis to [0, max_value].
    best_step: a step to mark with a vertical line.
  """
  label = f"{title} ({note}): " + "; ".join(
    f"{curve.name} from {curve.values[0]:.4g} at step {curve.steps[0]} to {curve.values[-1]:.4g} at step "
    f"{curve.steps[-1]}"
    for curve in curves
  )

  def draw(axes: "Axes") -> None:
    _style_line_axes(axes, max_value)
    if best_step is not None:
      axes.axvline(best_step, color=_INK, linewidth=0.8, linestyle=(0, (1, 2)))
    for curve in curves:
      _draw_curve(axes, _thin(curve))

  return Chart(title, note, label, _draw_svg(draw, 2.5, salt=label), curves, best_step)


def bar_chart(title: str, note: str, counts: Mapping[str, int]) -> Chart:
  """Draws counts as horizontal bars, each labelled with its count and its share of the total.

  Args:
    title: heading of the chart.
    note: what is counted. Title and note together must be unique in a page.
    counts: name -> count, at least one.
  """
  total = sum(counts.values())
  texts = [f"{count:,} ({count / total:.1%})" if total else f"{count:,}" for count in counts.values()]
  label = f"{title} ({note}): " + "; ".join(f"{name}: {text}" for name, text in zip(counts, texts, strict=True))

  def draw(axes: "Axes") -> None:
    axes.barh(list(counts), list(counts.values()), height=0.7, color=_SERIES["first"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(1, *counts.values()))  # room for the text behind the longest bar
    for row, (count, text) in enumerate(zip(counts.values(), texts, strict=True)):
      axes.annotate(text, (count, row), xytext=(4, 0), textcoords="offset points", va="center_baseline", color=_INK)
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_GRID)
    axes.xaxis.set_visible(False)
    axes.tick_params(colors=_INK, length=0, pad=5)

  return Chart(title, note, label, _draw_svg(draw, 0.3 + 0.22 * len(counts), salt=label))


def _thin(curve: Curve) -> Curve:
  # Rounding keeps the first and the last point.
  kept = np.unique(np.linspace(0, len(curve.steps) - 1, MAX_POINTS).round().astype(int))
  return dataclasses.replace(curve, steps=[curve.steps[i] for i in kept], values=[curve.values[i] for i in kept])


def _draw_curve(axes: "Axes", curve: Curve) -> None:
  axes.plot(
    curve.steps,
    curve.values,
    curve.dashes,
    color=_SERIES[curve.series],
    alpha=0.3 if curve.faint else 1,
    linewidth=0.9 if curve.faint else 1.7,
    marker="o" if curve.marker else None,
    markersize=3.2,
    clip_on=False,  # 0 and 100 percent lie on the frame, which would cut off half of the line
  )


def _style_line_axes(axes: "Axes", max_value: float | None) -> None:
  from matplotlib.ticker import MaxNLocator, StrMethodFormatter

  axes.patch.set_visible(False)
  axes.spines[["top", "right", "left"]].set_visible(False)
  axes.spines["bottom"].set_color(_GRID)
  axes.grid(axis="y", color=_GRID, linewidth=0.6)
  axes.set_axisbelow(True)
  axes.tick_params(colors=_INK, length=0, pad=5)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
  if max_value is not None:
    axes.set_ylim(0, max_value)
    axes.set_yticks(np.linspace(0, max_value, 5))


def _draw_svg(draw: Callable[["Axes"], None], height: float, salt: str) -> markupsafe.Markup:
  """Draws on new axes and returns an `<svg>` element.

  Args:
    draw: draws on the axes.
    height: in inches.
    salt: unique in the page; ids of the element derive from it.
  """
  import matplotlib  # late: takes most of a second
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # a user's matplotlibrc must not change the bytes
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9, "text.parse_math": False})
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_visible(False)
    draw(figure.add_subplot())
    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
  return markupsafe.Markup(_to_inline(file.getvalue()))


def _to_inline(svg: str) -> str:
  """Turns an SVG document into an element for an HTML page, which needs no namespaces."""
  root = ElementTree.fromstring(svg)
  for element in root.iter():
    for namespace in _XML_NAMESPACES:
      element.tag = element.tag.removeprefix(namespace)
      element.attrib = {name.removeprefix(namespace): value for name, value in element.attrib.items()}
    if element.tag == "g":
      element.attrib.pop("id", None)  # matplotlib gives groups of every figure the same ids
    for colour, variable in _VARIABLES.items():
      if "style" in element.attrib:
        element.set("style", element.attrib["style"].replace(colour, f"var(--{variable})"))
  for definitions in root.findall("defs"):
    for style in definitions.findall("style"):
      definitions.remove(style)  # it would apply to all of the page
  for name in ("width", "height"):
    del root.attrib[name]  # the page sets the size
  root.set("aria-hidden", "true")
  return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
