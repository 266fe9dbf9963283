"""Tables and pages of a study."""

import pytest
from page import Page

from clipvip_jax.reporting import study_page
from clipvip_jax.runs.results import RunResults


def split(recall):
  row = {"R@1": recall, "R@5": 2 * recall}
  return {"size": 10, "plain": {"text_to_video": row, "video_to_text": row}}


def run(tmp_path, *recalls):
  """A finished run with an evaluation after each step, whose last one gives its results."""
  history = [
    {"kind": "eval", "step": step, "split": "validation", "metrics": split(recall)}
    for step, recall in enumerate(recalls, 1)
  ]
  return RunResults(tmp_path, {"splits": {"test": split(recalls[-1])}}, history)


@pytest.fixture
def comparison(tmp_path):
  arms = {
    "a": study_page.summarize_arm({0: run(tmp_path, 0.1, 0.2), 1: run(tmp_path, 0.2, 0.4)}),
    "b": study_page.summarize_arm({0: run(tmp_path, 0.25)}),
  }
  return {"groups": {"Losses <1>": {"first & a": "a", "second": "b"}}, "arms": arms, "warnings": []}


def test_arm_has_means_and_curves_in_percent(comparison):
  arm = comparison["arms"]["a"]
  assert arm["seeds"] == 2
  assert arm["splits"]["test"]["plain"]["text_to_video"]["R@1"]["mean"] == pytest.approx(0.3)
  assert {
    seed: {step: pytest.approx(value) for step, value in curve.items()} for seed, curve in arm["curves"].items()
  } == {
    "0": {"1": 10.0, "2": 20.0},
    "1": {"1": 20.0, "2": 40.0},
  }


def test_table_has_only_columns_with_values_and_no_deviation_of_one_seed(comparison):
  (table,) = study_page.tables(comparison)
  assert (table.title, table.split, table.columns) == ("Losses <1>", "test", ["t2v R@1", "t2v R@5", "v2t R@1"])
  assert list(table.rows) == [
    ("first & a", 2, ["30.0 ± 14.1", "60.0 ± 28.3", "30.0 ± 14.1"]),
    ("second", 1, ["25.0", "50.0", "25.0"]),
  ]


def test_markdown_table(comparison):
  lines = study_page.format_markdown(comparison).splitlines()
  assert lines[0] == "**Losses <1>**, test"
  assert lines[2:4] == ["|  | seeds | t2v R@1 | t2v R@5 | v2t R@1 |", "|---|---|---|---|---|"]
  assert lines[5] == "| second | 1 | 25.0 | 50.0 | 25.0 |"


def test_page_has_tables_and_the_mean_curve_at_common_steps(comparison, tmp_path):
  comparison["arms"]["a"]["curves"]["1"]["3"] = 50.0  # a step that the other seed lacks
  study_page.write_study(tmp_path, comparison)
  assert {path.name for path in tmp_path.iterdir()} == {"study.md", "study.html"}
  page = Page((tmp_path / "study.html").read_text(encoding="utf-8"))
  at = page.texts.index("first & a")
  assert page.texts[at : at + 3] == ["first & a", "2", "30.0 ± 14.1"]
  label = next(label for label in page.values("aria-label") if label.startswith("Losses <1>"))
  assert "first & a from 15 at step 1 to 30 at step 2; second from 25 at step 1 to 25 at step 1" in label


def test_comparison_without_curves_has_no_chart(comparison, tmp_path):
  for arm in comparison["arms"].values():
    arm["curves"] = {seed: {} for seed in arm["curves"]}
  study_page.write_study(tmp_path, comparison)
  page = (tmp_path / "study.html").read_text(encoding="utf-8")
  assert "<svg" not in page and "Training" not in Page(page).texts
