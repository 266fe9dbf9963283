"""Cells, rows and text tables of retrieval results."""

import math

import numpy as np
import pytest

from clipvip_jax.evaluation import confidence, published_results, retrieval
from clipvip_jax.reporting import results_table


def split_metrics(seed=0, size=40, **changes):
  similarity = np.random.default_rng(seed).normal(size=(size, size)) + 2 * np.eye(size)
  return {
    "size": size,
    "expected": size + 2,
    "missing": 2,
    "queries": size,
    "duplicate_queries": 0,
    **retrieval.evaluate(similarity),
    **changes,
  }


@pytest.mark.parametrize(
  ("name", "value", "text"),
  [
    ("R@1", 0.50123, "50.1"),
    ("R@10", 1, "100.0"),
    ("accuracy", np.float32(0.5), "50.0"),
    ("median_rank", 2.0, "2.0"),
    ("mean_rank", 1234.56, "1,234.6"),
    ("R@1", {"mean": 0.312, "sd": 0.0141}, "31.2 ± 1.4"),
    ("mean_rank", {"mean": 12.0, "sd": 0.25}, "12.0 ± 0.2"),
    ("R@1", {"mean": 0.312, "sd": None}, "31.2"),
    ("R@1", None, results_table.MISSING),
    ("R@1", math.nan, results_table.MISSING),
    ("R@1", "0.5", results_table.MISSING),
  ],
)
def test_formats_recalls_in_percent_and_ranks_as_they_are(name, value, text):
  assert results_table.format_metric(name, value) == text


def test_a_row_has_one_cell_per_metric_in_the_order_of_the_header():
  metrics = {"mean_rank": 5.0, "median_rank": 4.0, "R@10": 0.3, "R@5": 0.2, "R@1": 0.1}
  assert results_table.format_metrics(metrics) == ["10.0", "20.0", "30.0", "4.0", "5.0"]
  assert [*results_table.METRICS] == ["R@1", "R@5", "R@10", "median_rank", "mean_rank"]
  assert results_table.format_metrics(None) == [results_table.MISSING] * 5


@pytest.mark.parametrize(
  ("metrics", "text"),
  [
    ({"size": 1000}, "1,000 clips"),
    ({"size": 998, "expected": 1000, "missing": 2}, "998 of 1,000 clips, 2 missing"),
  ],
)
def test_coverage(metrics, text):
  assert results_table.format_coverage(metrics) == text


def test_split_table_has_every_number_under_its_heading():
  metrics = split_metrics()
  metrics["plain"]["video_to_text"]["R@1_interval"] = [0.25, 0.75]
  lines = results_table.format_split("test", metrics).splitlines()
  assert lines[0] == "test: 40 of 42 clips, 2 missing; 40 queries"
  header, *rows, note = lines[1:]
  labels = ["Text to video", "Video to text", "Text to video, dual softmax", "Video to text, dual softmax"]
  assert [row[:36].strip() for row in rows] == labels and note.startswith("Dual softmax ranks with all queries")
  ends = [header.index(title) + len(title) for title in results_table.METRICS.values()]
  for row, (kind, direction) in zip(rows, [(k, d) for k in ("plain", "dsl") for d in metrics["plain"]], strict=True):
    numbers = metrics[kind][direction]
    cells = [row[:end].split()[-1] for end in ends]
    assert cells == [*(f"{100 * numbers[f'R@{k}']:.1f}" for k in (1, 5, 10)), f"{numbers['median_rank']:.1f}",
                     f"{numbers['mean_rank']:.1f}"]  # fmt: skip
  assert rows[1].endswith("25.0 to 75.0") and " to " not in rows[0].removeprefix("Text to video")


def several_captions():
  similarity = np.random.default_rng(0).normal(size=(12, 4))
  return split_metrics(size=4, queries=12, **retrieval.evaluate(similarity, np.arange(12) % 4))


def test_split_table_has_grouped_captions_where_a_video_has_several():
  metrics = several_captions()
  lines = results_table.format_split("test", metrics).splitlines()
  for label, kind in (("Video to text, grouped ", "plain"), ("Video to text, grouped, dual softmax ", "dsl")):
    (row,) = (line for line in lines if line.startswith(label))
    cells = results_table.format_metrics(metrics[kind]["video_to_text_grouped"])
    assert row.removeprefix(label).split() == cells and len(row) == len(lines[1])
  assert not any("grouped" in line for line in results_table.format_split("test", split_metrics()).splitlines())
  spread = confidence.mean_and_sd([{kind: metrics[kind] for kind in ("plain", "dsl")}] * 2)
  assert "\nVideo to text, grouped " in results_table.format_spread("test", spread, 2)


def test_split_table_warns_of_queries_that_are_not_unique_and_counts_twins():
  metrics = split_metrics(duplicate_queries=6, twins={"accuracy": 0.75, "count": 40})
  lines = results_table.format_split("test", metrics).splitlines()
  assert lines[1].startswith("warning: 6 of 40 queries are not unique")
  assert lines[2] == "twin accuracy: 75.0% of 40"


def test_published_rows_stand_beneath_with_a_dash_for_ranks():
  published = published_results.published_rows("msrvtt/9k/1.0.0", "test")
  lines = results_table.format_split("test", split_metrics(), published).splitlines()
  start = lines.index("published on MSR-VTT 1k-A, 1,000 clips:") + 1
  rows = lines[start : start + len(published)]
  assert rows[0].split() == ["B/32", "zero-shot", "31.5", "53.9", "63.4", results_table.MISSING, results_table.MISSING]
  assert any(row.startswith("B/32 fine-tuned, video to text ") for row in rows)
  assert sum(row.startswith("B/32 fine-tuned, dual softmax ") for row in rows) == 1


def test_long_labels_of_published_rows_widen_the_first_column():
  published = published_results.published_rows("msvd/default/1.0.0", "test")
  metrics = split_metrics()
  lines = results_table.format_split("test", metrics, published).splitlines()
  title = next(line for line in lines if "R@1" in line)
  end = title.index("R@1") + len("R@1")
  cells = {line[: end - 6].strip(): line[end - 6 : end].strip() for line in lines}
  assert cells["Text to video"] == f"{100 * metrics['plain']['text_to_video']['R@1']:.1f}"
  assert cells["CLIP2Video B/32 fine-tuned, video to text, grouped"] == "58.7"


def test_spread_table_keeps_wide_cells_apart():
  runs = [{kind: metrics[kind] for kind in ("plain", "dsl")} for metrics in (split_metrics(s) for s in (0, 1))]
  runs[0]["plain"]["text_to_video"]["mean_rank"], runs[1]["plain"]["text_to_video"]["mean_rank"] = 1000.0, 1500.0
  text = results_table.format_spread("test", confidence.mean_and_sd(runs), 2)
  assert text.startswith("test: mean ± standard deviation of 2 models\n")
  recalls = [100 * run["plain"]["text_to_video"]["R@1"] for run in runs]
  row = next(line for line in text.splitlines() if line.startswith("Text to video  "))
  assert f" {np.mean(recalls):.1f} ± {np.std(recalls, ddof=1):.1f} " in row and row.endswith(" 1,250.0 ± 353.6")


@pytest.mark.parametrize(("accuracies", "line"), [((0.5, 0.7), "60.0 ± 14.1"), ((0.25,), "25.0"), ((), None)])
def test_spread_table_has_the_twin_accuracy_where_it_was_measured(accuracies, line):
  runs = [split_metrics(twins={"accuracy": accuracy, "count": 40}) for accuracy in accuracies] or [split_metrics()]
  lines = results_table.format_spread("test", confidence.mean_and_sd(runs), len(runs)).splitlines()
  assert [text.partition(": ")[2] for text in lines if text.startswith("twin accuracy")] == ([line] if line else [])


def test_split_names_are_printed_on_one_safe_line():
  first = results_table.format_split("a\x1b[31m\nb", split_metrics()).splitlines()[0]
  assert first.startswith(r"a\x1b[31m\nb: 40 of 42 clips")
