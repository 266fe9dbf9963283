"""The language gap: scikit-learn as the oracle, its extremes, files and corpora."""

import errno
import gzip
import hashlib
import warnings

import numpy as np
import pytest
import written_corpus
from project_paths import GOLDEN
from sklearn import cluster, metrics

from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder
from clipvip_jax.evaluation import language_gap
from clipvip_jax.utils.errors import UserError

SENTENCES = GOLDEN / "sentence_embeddings.npz"


def cloud(count, centre, seed, size=8):
  """Points of unit length around a direction."""
  points = np.random.default_rng(seed).normal(size=(count, size)) + centre * np.eye(size)[0]
  return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0])
def test_agrees_with_scikit_learn(distance):
  a, b = cloud(600, distance / 2, 0), cloud(600, -distance / 2, 1)
  gap = language_gap.measure_gap(a, b)
  labels = cluster.KMeans(2, n_init=10, random_state=0).fit_predict(np.concatenate([a, b]))
  expected = metrics.normalized_mutual_info_score(np.repeat([0, 1], 600), labels)
  assert gap.nmi == pytest.approx(expected, abs=0.02)
  same = metrics.normalized_mutual_info_score(np.repeat([0, 1], 600), gap.clusters)
  assert gap.nmi == pytest.approx(same, abs=1e-12)


def test_separate_clouds_have_a_gap_near_one_and_halves_near_zero():
  a, b = cloud(500, 4, 0), cloud(500, -4, 1)
  assert language_gap.measure_gap(a, b).nmi > 0.9
  assert language_gap.measure_gap_of_halves(a).nmi < 0.02
  assert language_gap.measure_gap_of_halves(a[:150]) is None
  assert language_gap.normalized_mutual_information(np.zeros(4, int), np.zeros(4, int)) == 0
  assert language_gap.normalized_mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == pytest.approx(1)


def test_draws_as_many_of_the_larger_set_as_the_smaller_has():
  gap = language_gap.measure_gap(cloud(1000, 3, 0), cloud(120, -3, 1))
  assert gap.count == 120 and len(gap.clusters) == 240
  again = language_gap.measure_gap(cloud(1000, 3, 0), cloud(120, -3, 1))
  assert gap.nmi == again.nmi and (gap.clusters == again.clusters).all()


def test_bundled_corpus_shows_the_gap_of_the_paper():
  """Subtitles are further from descriptions than captions are, in the space of a sentence encoder."""
  golden = np.load(SENTENCES)
  clips = Builder.BUILDER_CONFIGS[0].plan().split("train")[::20]
  features = {}
  for field in ("subtitle", "caption", "description"):
    texts = [getattr(clip, field) for clip in clips if getattr(clip, field)][:200]
    same = hashlib.sha256("\n".join(texts).encode()).hexdigest() == str(golden[f"{field}_sha256"])
    assert same, f"each {field} was changed: embed them again"
    features[field] = golden[field]
  subtitles, captions = (
    language_gap.measure_gap(features[field], features["description"]).nmi for field in ("subtitle", "caption")
  )
  assert subtitles > 0.1 and captions < 0.05
  assert all(language_gap.measure_gap_of_halves(texts).nmi < 0.03 for texts in features.values())


def test_corpus_fields_are_read_as_texts(tmp_path):
  records = [
    {"id": str(i), "frames": [], "description": [f"text {i}", f"other {i}"], "caption": "" if i % 2 else f"caption {i}"}
    for i in range(200)
  ]
  written_corpus.write(tmp_path, records, name="msrvtt", config="full")
  descriptions = language_gap.read_texts("msrvtt/full:train:description", str(tmp_path))
  assert descriptions == [text for record in records for text in record["description"]]
  captions = language_gap.read_texts("msrvtt/full:train:caption", str(tmp_path))
  assert captions == [record["caption"] for record in records if record["caption"]], "missing texts are skipped"
  with pytest.raises(UserError, match=r"'titel'; .*description"):
    language_gap.read_texts("msrvtt/full:train:titel", str(tmp_path))


def test_blank_lines_and_byte_order_mark_are_not_texts(tmp_path):
  (tmp_path / "a.txt").write_text(
    "\ufeff" + "\n".join([*(f" text {i}" for i in range(150)), "", "  "]), encoding="utf-8"
  )
  assert language_gap.read_texts(str(tmp_path / "a.txt")) == [f"text {i}" for i in range(150)]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_separators_within_a_text_do_not_end_its_line(tmp_path, separator):
  (tmp_path / "a.txt").write_text("".join(f"text{separator}{i}\r\n" for i in range(150)), encoding="utf-8", newline="")
  assert language_gap.read_texts(str(tmp_path / "a.txt")) == [f"text{separator}{i}" for i in range(150)]


def test_equal_texts_have_no_gap_and_give_no_warning():
  with warnings.catch_warnings(action="error"):
    assert language_gap.measure_gap(np.ones((100, 4), np.float32), np.ones((120, 4), np.float32)).nmi == 0


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"one\n" * 10, "has 10 texts; the gap needs at least 100"),
    (b"\xff" * 300, "line 1: not UTF-8 .*; re-encode the file: iconv"),
    ("one\n".encode("utf-16") * 300, "a.txt: the file is UTF-16 or UTF-32, not UTF-8; re-encode it: iconv"),
    (gzip.compress(b"one\n" * 300, mtime=0), r"a.txt: the file is compressed \(gzip\); decompress it"),
    (None, "no such file; name a file with one text per line, or CORPUS/CONFIG:SPLIT:FIELD"),
  ],
)
def test_too_few_texts_and_unreadable_files_are_refused(tmp_path, content, message):
  path = tmp_path / "a.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=message) as refused:
    language_gap.read_texts(str(path))
  assert "a.txt" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_texts_end_as_any_editor_ends_lines(tmp_path, end):
  (tmp_path / "a.txt").write_bytes(f"\ufeff{end}".encode() + f"one{end}{end}".encode() * 100)
  assert language_gap.read_texts(str(tmp_path / "a.txt")) == ["one"] * 100


def test_too_few_features_are_refused():
  with pytest.raises(UserError, match="99 texts; the gap needs at least 100 of each"):
    language_gap.measure_gap(cloud(99, 0, 0), cloud(500, 0, 0))


def test_plot_is_an_image_and_an_unwritable_one_is_refused(tmp_path):
  a, b = cloud(100, 2, 0), cloud(120, -2, 1)
  gap = language_gap.measure_gap(a, b)
  language_gap.plot_gap(tmp_path / "gap.png", a, b, ("a", "b"), gap)
  language_gap.plot_gap(tmp_path / "gap", a, b, ("a", "b"), gap)
  for name in ("gap.png", "gap"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  for path in (tmp_path / "none" / "gap.png", tmp_path / "gap.unknown"):
    with pytest.raises(UserError, match=r"--plot=.*gap.* cannot be written"):
      language_gap.plot_gap(path, a, b, ("a", "b"), gap)


@pytest.mark.parametrize("name", ["gap.png", "gap.pdf", "gap"])
def test_a_plot_that_the_disk_refuses_keeps_the_old_one(tmp_path, monkeypatch, name):
  def savefig(figure, path, **options):
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
  a, b = cloud(100, 2, 0), cloud(120, -2, 1)
  (tmp_path / name).write_bytes(b"old")
  with pytest.raises(UserError, match=r"--plot=.*gap.* cannot be written \(No space left"):
    language_gap.plot_gap(tmp_path / name, a, b, ("a", "b"), language_gap.measure_gap(a, b))
  assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
