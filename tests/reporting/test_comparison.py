"""Comparison of two runs: differences, warnings and text."""

import math

import pytest

from clipvip_jax.reporting import comparison
from clipvip_jax.reporting.comparison import Difference
from clipvip_jax.reporting.results_table import MISSING
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils.errors import UserError


@pytest.mark.parametrize(
  ("metric", "a", "b", "text", "better"),
  [
    ("R@1", 0.5, 0.51251, "+1.3", "B"),
    ("R@1", 0.5, 0.25, "-25.0", "A"),
    ("accuracy", 0.25, 0.5, "+25.0", "B"),
    ("mean_rank", 5000.0, 3765.5, "-1,234.5", "B"),
    ("median_rank", 1.0, 4.0, "+3.0", "A"),
    ("R@1", 0.5, 0.5, "0.0", ""),
    ("mean_rank", 2.0, 1.96, "0.0", ""),
    ("R@1", None, 0.5, MISSING, ""),
    ("R@1", 0.5, math.nan, MISSING, ""),
  ],
)
def test_larger_recalls_and_smaller_ranks_are_better(metric, a, b, text, better):
  assert comparison.metric_difference(metric, a, b) == Difference(text, better)


def run(tmp_path, name, recall, **results):
  row = {"R@1": recall, "R@5": 0.75, "R@10": 1.0, "median_rank": 2.0, "mean_rank": 3.0}
  kind = {"text_to_video": row, "video_to_text": row}
  splits = {"test": {"size": 1000, "plain": kind, "dsl": kind}}
  return RunResults(tmp_path / name, {"splits": splits, "best_step": 1200, **results}, [])


def test_summaries_tables_and_lines_have_the_numbers_of_both_runs(tmp_path):
  result = comparison.compare_runs(run(tmp_path, "a", 0.25), run(tmp_path, "b", 0.5, num_params=1_000_000))
  assert [(r.name, r.best_step, r.num_params) for r in result.runs] == [
    ("A", "1,200", MISSING),
    ("B", "1,200", "1,000,000"),
  ]
  (split,) = result.splits
  assert [table.title for table in split.tables] == [
    "Text to video, plain",
    "Video to text, plain",
    "Text to video, dual softmax",
    "Video to text, dual softmax",
  ]
  table = split.tables[0]
  assert (table.a[0], table.b[0], table.difference[0]) == ("25.0", "50.0", Difference("+25.0", "B"))
  assert split.twins is None and not result.charts and not result.warnings
  lines = list(comparison.comparison_lines(result))
  start = next(i for i, line in enumerate(lines) if line.startswith("Text to video, plain"))
  assert [line.split()[-5] for line in lines[start : start + 3]] == ["25.0", "50.0", "+25.0"]
  assert "test: 1,000 clips in A, 1,000 in B" in lines


def test_grouped_captions_are_compared_where_one_run_has_them_and_columns_stay_aligned(tmp_path):
  a, b = run(tmp_path, "a", 0.25), run(tmp_path, "b", 0.5)
  b.splits["test"]["plain"] = {**b.splits["test"]["plain"], "video_to_text_grouped": {"R@1": 0.75}}
  b.splits["test"]["dsl"] = {**b.splits["test"]["dsl"], "video_to_text_grouped": {"R@1": 1.0}}
  tables = comparison.compare_runs(a, b).splits[0].tables
  titles = [table.title for table in tables]
  assert titles[2] == "Video to text, grouped, plain" and titles[5] == "Video to text, grouped, dual softmax"
  assert (tables[2].a[0], tables[2].b[0], tables[2].difference[0].text) == (MISSING, "75.0", MISSING)
  lines = list(comparison.comparison_lines(comparison.compare_runs(a, b)))
  header = next(line for line in lines if line.strip().startswith("R@1"))
  for title in titles:
    (row,) = (line for line in lines if line.startswith(f"{title} "))
    assert row.removeprefix(title).split()[0] == "A" and len(row) == len(header)


def test_different_corpora_and_queries_give_warnings(tmp_path):
  a = run(tmp_path, "a", 0.5, corpus={"name": "x/1"}, config={"evaluate": {"query": "title"}})
  b = run(tmp_path, "b", 0.5, corpus={"name": "y/1"}, config={"evaluate": {"query": "description"}})
  assert comparison.compare_runs(a, b).warnings == [
    "evaluated on different corpora: name is x/1 in A and y/1 in B",
    "evaluated with different queries: evaluate.query is title in A and description in B",
  ]


def test_rejects_runs_without_a_common_split(tmp_path):
  other = RunResults(tmp_path / "b", {"splits": {"val": {"size": 1}}}, [])
  with pytest.raises(UserError, match=r"a has test; .*b has val\); evaluate both on the same split"):
    comparison.compare_runs(run(tmp_path, "a", 0.5), other)


def test_page_escapes_what_results_hold(tmp_path):
  a, b = (run(tmp_path, name, 0.5, config={"loss": f"<script>{name}</script>"}) for name in "ab")
  comparison.write_comparison_page(tmp_path / "page.html", comparison.compare_runs(a, b), "--html")
  page = (tmp_path / "page.html").read_text(encoding="utf-8")
  assert "<script" not in page and "&lt;script&gt;a&lt;/script&gt;" in page
