"""Charts as inline SVG: contents, stable bytes and ids that are unique in a page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from clipvip_jax.reporting import charts
from clipvip_jax.reporting.charts import Curve


def polyline_lengths(svg):
  """Number of points of every path that is a curve, not a grid line or frame."""
  paths = (element.get("d", "") for element in ElementTree.fromstring(svg).iter("path"))
  return [path.count("L") + 1 for path in paths]


def test_moving_average_of_a_constant_is_the_constant():
  np.testing.assert_allclose(charts.moving_average([3.0] * 100), 3.0)


def test_moving_average_follows_short_curves_exactly_and_damps_noise_of_long_ones():
  assert charts.moving_average([1.0, 5.0, 2.0]) == [1.0, 5.0, 2.0]
  noise = np.random.default_rng(0).normal(size=3000)
  assert np.std(charts.moving_average(noise.tolist())[500:]) < 0.2 * np.std(noise)


def test_line_chart_thins_long_curves_and_keeps_both_ends():
  steps = list(range(5000))
  chart = charts.line_chart("Loss", "over steps", [Curve("a", steps, [float(s) for s in steps], "first")])
  assert max(polyline_lengths(chart.svg)) <= charts.MAX_POINTS
  assert chart.label == "Loss (over steps): a from 0 at step 0 to 4999 at step 4999"
  assert chart.legend[0].name == "a" and chart.best_step is None


def test_charts_are_elements_in_colours_of_the_page():
  curve = Curve("a", [1, 2], [3.0, 4.0], "second", marker=True)
  svg = charts.line_chart("Loss", "over steps", [curve], max_value=100.0, best_step=2).svg
  root = ElementTree.fromstring(svg)
  assert root.tag == "svg" and "viewBox" in root.attrib and not {"width", "height"} & root.attrib.keys()
  assert "var(--second)" in svg and "var(--muted)" in svg and "#0102" not in svg
  assert not re.search(r"<\?xml|<!DOCTYPE|<style|<metadata|xmlns|http", svg)
  assert {"0", "25", "50", "75", "100"} <= {element.text for element in root.iter("text")}


def test_ids_of_different_charts_differ_and_every_reference_resolves():
  curve = Curve("a", [1, 2], [3.0, 4.0], "first", marker=True)
  roots = [ElementTree.fromstring(charts.line_chart(title, "over steps", [curve]).svg) for title in ("Loss", "Recall")]
  ids = [{element.get("id") for element in root.iter() if element.get("id")} for root in roots]
  assert ids[0] and ids[1] and not ids[0] & ids[1]
  for root, own in zip(roots, ids, strict=True):
    references = {element.get("href", "#")[1:] for element in root.iter("use")}
    references |= {element.get("clip-path")[5:-1] for element in root.iter() if element.get("clip-path")}
    assert references and references <= own


def test_equal_input_gives_byte_identical_charts_with_any_matplotlibrc():
  import matplotlib

  curve = Curve("a", [1, 2], [3.0, 4.0], "first")
  first = charts.line_chart("Loss", "over steps", [curve])
  with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "svg.fonttype": "path"}):
    assert charts.line_chart("Loss", "over steps", [curve]) == first


def test_bar_chart_shows_counts_and_shares_as_text():
  chart = charts.bar_chart("Ranks", "queries", {"1": 300, "2-5": 1000})
  assert chart.label == "Ranks (queries): 1: 300 (23.1%); 2-5: 1,000 (76.9%)"
  texts = [element.text for element in ElementTree.fromstring(chart.svg).iter("text")]
  assert {"1", "2-5", "300 (23.1%)", "1,000 (76.9%)"} <= set(texts)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", "$x^2$", "$\\frac{"])
def test_names_are_escaped_and_never_parsed_as_mathematics(name):
  svg = charts.bar_chart("Ranks", "queries", {name: 0}).svg
  assert "<script" not in svg
  assert name in [element.text for element in ElementTree.fromstring(svg).iter("text")]
