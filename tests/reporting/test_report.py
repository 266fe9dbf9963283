"""The report page: contents, escaping, self-containment and stable bytes."""

import dataclasses
import json

import browser
import numpy as np
import pytest
import simplejpeg
from page import Page

from clipvip_jax.evaluation import published_results, retrieval
from clipvip_jax.reporting import attention_maps
from clipvip_jax.reporting.report import write_report
from clipvip_jax.reporting.report_inputs import (
  Examples,
  FrameAttention,
  ProxyAttention,
  QueryExample,
  RankedVideo,
  VideoAttention,
)
from clipvip_jax.reporting.results_table import MISSING


def split_results(seed, size):
  similarity = np.random.default_rng(seed).normal(size=(size, size)) + 2 * np.eye(size)
  twins = np.arange(size) ^ 1
  return {
    "size": size,
    "missing_captions": seed,
    **retrieval.evaluate(similarity),
    "rank_histogram": retrieval.rank_histogram(retrieval.text_to_video_ranks(similarity)),
    "twins": retrieval.twin_accuracy(similarity, twins),
  }


@pytest.fixture(scope="module")
def results():
  return {
    "splits": {"test": split_results(12, 64), "test_unseen": split_results(0, 32)},
    "step": 1000,
    "best_step": 900,
    "num_params": 151_300_000,
    "config": {"optimizer": {"learning_rate": 1e-6}, "name": "demo", "sizes": [1, 2]},
    "versions": {"jax": "0.10.2"},
  }


@pytest.fixture(scope="module")
def history():
  train = [{"kind": "train", "step": s, "loss": 5 / s, "learning_rate": 1e-5} for s in range(1, 2001)]
  train[50]["loss"] = float("nan")
  metrics = [split_results(seed, 16) for seed in range(4)]
  evaluations = [
    {"kind": "eval", "step": 250 * (i + 1), "split": "validation", "metrics": metrics[i]} for i in range(4)
  ]
  return train + evaluations[::-1]


@pytest.fixture(scope="module")
def examples():
  frame = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
  top = [RankedVideo(i + 1, f"clip-{i}", 0.5 - i / 10, i == 2, [frame] * 3) for i in range(5)]
  others = [dataclasses.replace(video, is_match=False) for video in top]
  worst = [*others, RankedVideo(64, "<b>clip</b>", -0.5, True, [frame] * 3)]
  queries = [
    QueryExample("test", "best", "<script>alert('x')</script> & \"quotes\"", 3, top),
    QueryExample("test", "typical", "a cat \ud83d", 17, others),
    QueryExample("test", "worst", "a dog", 64, worst),
  ]
  frames = [FrameAttention(0.25, frame), FrameAttention(0.5, frame)]
  proxies = [ProxyAttention(name, 0.75, frames) for name in ("class token", "proxy 1")]
  return Examples(queries, [VideoAttention("test", "<i>clip</i>", 3, [0, 2], [frame] * 2, proxies)])


@pytest.fixture(scope="module")
def source(tmp_path_factory, results, history, examples):
  path = tmp_path_factory.mktemp("report") / "report.html"
  write_report(path, results, history, examples)
  assert [file.name for file in path.parent.iterdir()] == ["report.html"], "left a temporary file"
  return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_shows_every_metric(source, results):
  page = Page(source)
  for split in results["splits"].values():
    for kind in ("plain", "dsl"):
      for metrics in split[kind].values():
        shown = [retrieval.percent(metrics[f"R@{k}"]) for k in (1, 5, 10)]
        shown += [f"{metrics[name]:,.1f}" for name in ("median_rank", "mean_rank")]
        starts = range(len(page.texts) - len(shown) + 1)
        assert any(page.texts[i : i + len(shown)] == shown for i in starts), (kind, shown)
    assert f"Twins: {retrieval.percent(split['twins']['accuracy'])}%" in page.texts
  for text in (
    "12 clips without a caption",
    "151.3 M",
    "900",
    "optimizer.learning_rate",
    "1e-06",
    "[1, 2]",
    "0.10.2",
  ):
    assert text in page.texts
  chance = ["Chance", "1.6", "7.8", "15.6", "32.5", "32.5"]
  at = page.texts.index("Chance")
  assert page.texts[at : at + 6] == chance


def test_queries_and_ids_are_escaped(source):
  assert "<script" not in source and "<b>" not in source and "<i>" not in source
  assert any("<script>alert('x')</script> & \"quotes\"" in text for text in Page(source).texts)


def test_page_is_self_contained(source):
  page = Page(source)
  assert all(value.startswith("data:image/jpeg;base64,") for value in page.values("src"))
  links = page.values("href") + page.values("xlink:href")
  assert all(link.startswith("#") for link in links)
  ids = page.values("id")
  assert len(set(ids)) == len(ids)
  assert {link[1:] for link in links} <= set(ids)
  assert "url(http" not in source and "@import" not in source
  assert "default-src 'none'" in source


def test_examples_have_the_rank_and_mark_the_matching_video_in_words(source):
  page = Page(source)
  assert "Matching video: rank 3 of 64" in page.texts
  assert "Matching video: rank 17 of 64" in page.texts
  assert page.texts.count("✓ matching video") == 2
  assert "below the 5 shown" in page.texts
  assert [text for text in page.texts if text in ("Best", "Worst", "Typical")] == ["Best", "Typical", "Worst"]
  assert page.texts.count("⋮") == 1, "between the fifth video and the matching one, which ranks last"
  assert page.texts[page.texts.index("⋮") + 1] == "64"
  assert page.values("alt").count("Video clip-2, frame 3 of 3") == 3
  assert page.values("tabindex").count("0") == 17, "scrollable regions need keyboard focus"


def test_attention_maps_have_shares_and_a_legend(source):
  page = Page(source)
  assert "2 of 3 frames" in page.texts and "frame 3" in page.texts
  at = page.texts.index("class token")
  assert page.texts[at : at + 4] == ["class token", "75.0%", "25.0%", "50.0%"]
  assert "Attention of the proxy 1 in frame 3" in page.values("alt")
  colours = ", ".join("#" + bytes(colour).hex() for colour in attention_maps.heat_colours()[::51])
  assert f"linear-gradient(90deg, {colours})" in source, "the legend and the maps have different colours"


def test_published_results_intervals_and_duplicate_queries(tmp_path):
  split = {**split_results(0, 1000), "duplicate_queries": 1234}
  split["plain"]["text_to_video"]["R@1_interval"] = [0.4701, 0.531]
  published = published_results.published_rows("msrvtt/9k/1.0.0", "test")
  results = {"splits": {"test": split}, "published": {"test": published}, "preprocessing": {"size": "squashed"}}
  write_report(tmp_path / "report.html", results)
  page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
  at = page.texts.index("Text to video, B/32 zero-shot")
  assert page.texts[at : at + 6] == [
    "Text to video, B/32 zero-shot",
    "31.5",
    "53.9",
    "63.4",
    *[MISSING] * 2,
  ]
  assert sum(text.startswith(("Text to video, B/", "Video to text, B/")) for text in page.texts) == len(published)
  assert "In small print: published results on MSR-VTT 1k-A, 1,000 clips." in page.texts
  assert "95% bootstrap interval of R@1 (resampled videos): Text to video 47.0 to 53.1." in page.texts
  assert "1,234 queries that are not unique" in page.texts and "squashed" in page.texts


def test_grouped_captions_have_a_row_where_a_video_has_several(tmp_path):
  similarity = np.random.default_rng(0).normal(size=(12, 4))
  for labels, expected in ((np.arange(12) % 4, 2), (None, 0)):
    results = {"splits": {"test": {"size": 4, **retrieval.evaluate(similarity[: 12 if expected else 4], labels)}}}
    write_report(tmp_path / "report.html", results)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.texts.count("Video to text, grouped") == expected


@pytest.mark.parametrize(
  ("labels", "title"),
  [
    (range(10), "Chance"),
    (range(0, 10, 2), "Chance, text to video"),  # distractors
    ([*range(10), 3], "Chance, text to video"),  # several queries of a clip
    ([0, 0, *range(2, 10)], "Chance, text to video"),  # both
  ],
)
def test_chance_is_the_mean_of_random_rankings(tmp_path, labels, title):
  labels, rng = np.array(labels), np.random.default_rng(0)
  similarities = [rng.random((len(labels), 10), np.float32) for _ in range(2000)]
  results = {"size": 10, "queries": len(labels), **retrieval.evaluate(rng.random((len(labels), 10)), labels)}
  write_report(tmp_path / "report.html", {"splits": {"test": results}})
  texts = Page((tmp_path / "report.html").read_text(encoding="utf-8")).texts
  shown = [float(text) for text in texts[texts.index(title) + 1 :][:5]]
  for rank in (retrieval.text_to_video_ranks, retrieval.video_to_text_ranks)[: 2 if title == "Chance" else 1]:
    rows = [list(retrieval.rank_metrics(rank(similarity, labels)).values()) for similarity in similarities]
    np.testing.assert_allclose(shown, np.mean(rows, axis=0) * [100, 100, 100, 1, 1], rtol=0.1)


def test_rank_histogram_is_in_order(tmp_path):
  histogram = {"1": 300, "2-5": 100, "6-10": 0, "11-20": 1}
  write_report(tmp_path / "report.html", {"splits": {"test": {"rank_histogram": dict(sorted(histogram.items()))}}})
  page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
  label = next(label for label in page.values("aria-label") if label.startswith("Rank of"))
  assert label.endswith("1: 300 (74.8%); 2-5: 100 (24.9%); 6-10: 0 (0.0%); 11-20: 1 (0.2%)")
  assert "100 (24.9%)" in page.texts, "the bars have no text"


def test_training_curves_are_thinned(source):
  page = Page(source)
  labels = [label for label in page.values("aria-label") if label.startswith(("Training", "Text-to"))]
  assert "raw from 5 at step 1 to 0.0025 at step 2000" in labels[0]
  assert "validation" in labels[1] and "twin accuracy from" in labels[1] and "at step 1000" in labels[1]
  assert "#0102" not in source, "a placeholder colour is left"
  assert len(source) < 200_000, "long curves are thinned"


def test_sizes_of_updates_and_peak_memory_are_shown_where_they_were_measured(tmp_path):
  values = {"loss": 1.0, "update_norm": 0.5, "update_ratio/vision": 2e-4}
  rows = [
    {"kind": "train", "step": step, **values, "update_ratio/text": 1e-4 * step, "peak_memory": (4 - step) * 2**30}
    for step in (1, 2)
  ]
  write_report(tmp_path / "report.html", {"step": 2}, rows)
  page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
  label = next(label for label in page.values("aria-label") if label.startswith("Size of the updates"))
  assert label.endswith(
    "text from 0.0001 at step 1 to 0.0002 at step 2; vision from 0.0002 at step 1 to 0.0002 at step 2"
  )
  assert page.texts[page.texts.index("Peak memory of a device") + 1] == "3.0 GiB"


@pytest.mark.parametrize("flags", [("--window-size=1280,900",), ("--window-size=400,800", browser.DARK)])
def test_browser_opens_the_page_without_console_messages(source, tmp_path, flags):
  (tmp_path / "report.html").write_text(source, encoding="utf-8")
  document, console = browser.opened(tmp_path / "report.html", *flags)
  assert not console
  assert document.count("<img") == source.count("<img") and document.rstrip().endswith("</html>")


def test_content_security_policy_blocks_injected_scripts_and_images(source, tmp_path):
  outside = '<script>document.title = "owned"</script><img src="http://127.0.0.1:9/x.png">'
  (tmp_path / "report.html").write_text(source.replace("</main>", f"{outside}</main>"), encoding="utf-8")
  document, console = browser.opened(tmp_path / "report.html")
  assert "<title>CLIP-ViP: retrieval report</title>" in document
  assert any("script-src" in line for line in console) and any("img-src" in line for line in console)


def test_equal_input_gives_a_byte_identical_page(source, tmp_path, results, history, examples):
  matplotlib = pytest.importorskip("matplotlib")
  with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):
    write_report(tmp_path / "again.html", results, history, examples)
  assert (tmp_path / "again.html").read_bytes() == source.encode()


@pytest.mark.parametrize("from_json", [False, True])
def test_results_may_come_from_json(tmp_path, results, from_json):
  results = json.loads(json.dumps(results)) if from_json else results
  write_report(tmp_path / "report.html", results)
  page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
  assert "Training" not in page.texts and "Examples" not in page.texts


def test_missing_values_are_omitted_or_dashes(tmp_path):
  write_report(tmp_path / "empty.html", {})
  assert "No split is evaluated." in Page((tmp_path / "empty.html").read_text(encoding="utf-8")).texts
  bare = {"splits": {"test": {"size": 2, "twins": {"accuracy": None, "count": 0}}}}
  history = [
    {"kind": "train", "step": 1, "loss": 2.0},
    {"kind": "eval", "step": 1, "split": "a", "metrics": {}},
  ]
  write_report(tmp_path / "bare.html", bare, history)
  page = Page((tmp_path / "bare.html").read_text(encoding="utf-8"))
  assert "\N{EN DASH}" in page.texts and "Training loss" in page.texts
  assert "Text-to-video recall" not in page.texts


def test_a_failed_write_keeps_the_old_report(tmp_path, results):
  path = tmp_path / "report.html"
  path.write_text("old")
  with pytest.raises(KeyError, match="kind"):
    write_report(path, results, [{"step": 1}])
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]
