"""Table and page of a classification: numbers, escaping, and no other files."""

import browser
import numpy as np
import pytest
from page import Page

from clipvip_jax.evaluation.classification_metrics import measure_classification
from clipvip_jax.reporting.classification_report import format_classification, write_classification_page
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def results():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 6, 40)
  scores = rng.normal(size=(40, 7)) + 2 * np.eye(7)[labels]
  names = ["run", "<script>alert(1)</script>", "walk & talk", "sit", "stand", "jump", "never"]
  metrics = measure_classification(scores, labels, names)
  return {
    "model": {"source": "runs/<b>"},
    "config": {"data": {"num_frames": 12}},
    "views": 2,
    "classes": {name: [name, f"a video of {name}."] for name in names},
    "videos": 43,
    "skipped": [{"video": f"{i}<i>.mp4", "reason": "not a\nvideo"} for i in range(3)],
    "zero_shot": metrics,
    "probe": measure_classification(3 * np.eye(7)[labels], labels, names),
  }


def test_table_shows_every_method(results):
  lines = format_classification(results).splitlines()
  assert lines[0] == "40 of 43 videos, 3 skipped; 7 classes"
  assert lines[1].split() == ["Top-1", "Top-5", "Mean", "class", "95%", "of", "top-1"]
  metrics = results["zero_shot"]
  expected = [f"{100 * metrics[name]:.1f}" for name in ("top1", "top5", "mean_class_accuracy")]
  assert lines[2].split()[:4] == ["Zero-shot", *expected]
  assert lines[2].endswith("{:.1f} to {:.1f}".format(*(100 * bound for bound in metrics["top1_interval"])))
  assert lines[3].split()[:4] == ["Linear", "probe", "100.0", "100.0"]
  assert lines[4] == "classes without videos: 1; mean class accuracy is over the others"
  first = metrics["confusions"][0]
  assert lines[5].startswith(f"most confused: {first['label']} as {first['predicted']} ({first['videos']})")
  del results["probe"], metrics["top5"]
  assert format_classification(results).splitlines()[2].split()[2] == "\N{EN DASH}"


def test_page_is_self_contained_and_escapes_names(results, tmp_path):
  write_classification_page(tmp_path / "report.html", results)
  source = (tmp_path / "report.html").read_text()
  page = Page(source)
  assert "<script" not in source and "default-src 'none'" in source
  assert not [value for name in ("src", "href") for value in page.values(name)], "nothing is loaded"
  for text in (
    "40 of 43 videos, 3 skipped",
    "runs/<b>",
    "2, of 12 frames each",
    "Linear probe",
    "0<i>.mp4",
    "not a\\nvideo",
  ):
    assert text in page.texts, text
  assert page.texts.count("Most confused classes, zero-shot") == page.texts.count("No video is confused.") == 1
  pair = results["zero_shot"]["confusions"][0]
  position = page.texts.index("Percent of the class")
  share = f"{100 * pair['share']:.1f}"
  assert page.texts[position + 1 : position + 5] == [pair["label"], pair["predicted"], str(pair["videos"]), share]
  write_classification_page(tmp_path / "again.html", results)
  assert (tmp_path / "again.html").read_text() == source


def test_page_opens_in_a_browser(results, tmp_path):
  write_classification_page(tmp_path / "report.html", results)
  document, console = browser.opened(tmp_path / "report.html")
  assert not console and "Video classification" in document


def test_unwritable_page_is_refused(results, tmp_path):
  with pytest.raises(UserError, match=r"--workdir=.*none/report\.html cannot be written"):
    write_classification_page(tmp_path / "none" / "report.html", results)
