"""The gap between two sources: against scikit-learn's numbers, its extremes, files and corpora."""

import hashlib
import re
import types

import numpy as np
import pytest
from project_paths import GOLDEN
from sklearn import cluster, metrics

from clipvip_jax import language_gap
from clipvip_jax.utils.errors import UserError
from data.moving_shapes.moving_shapes_dataset_builder import Builder

SENTENCES = GOLDEN / "sentence_embeddings.npz"


def cloud(count, centre, seed, size=8):
  """Points of unit length around a direction."""
  points = np.random.default_rng(seed).normal(size=(count, size)) + centre * np.eye(size)[0]
  return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 6.0])
def test_agrees_with_scikit_learn(distance):
  a, b = cloud(600, distance / 2, 0), cloud(600, -distance / 2, 1)
  found = language_gap.measure(a, b)
  labels = cluster.KMeans(2, n_init=10, random_state=0).fit_predict(np.concatenate([a, b]))
  expected = metrics.normalized_mutual_info_score(np.repeat([0, 1], 600), labels)
  assert found.nmi == pytest.approx(expected, abs=0.02)
  same = metrics.normalized_mutual_info_score(np.repeat([0, 1], 600), found.clusters)
  assert found.nmi == pytest.approx(same, abs=1e-12)


def test_extremes():
  a, b = cloud(500, 4, 0), cloud(500, -4, 1)
  assert language_gap.measure(a, b).nmi > 0.9
  assert language_gap.halves(a).nmi < 0.02
  assert language_gap.halves(a[:150]) is None
  assert language_gap.normalised_mutual_information(np.zeros(4, int), np.zeros(4, int)) == 0
  assert language_gap.normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == pytest.approx(1)


def test_as_many_of_the_larger_source_as_the_smaller_has():
  found = language_gap.measure(cloud(1000, 3, 0), cloud(120, -3, 1))
  assert found.count == 120 and len(found.clusters) == 240
  again = language_gap.measure(cloud(1000, 3, 0), cloud(120, -3, 1))
  assert found.nmi == again.nmi and (found.clusters == again.clusters).all()


def test_the_embedded_corpus_has_the_gap_that_the_paper_found():
  """Subtitles are further from descriptions than captions are, in the space of a sentence encoder."""
  golden = np.load(GOLDEN)
  clips = Builder.BUILDER_CONFIGS[0].plan().split("train")[::20]
  features = {}
  for field in ("subtitle", "caption", "description"):
    texts = [getattr(clip, field) for clip in clips if getattr(clip, field)][:200]
    same = hashlib.sha256("\n".join(texts).encode()).hexdigest() == str(golden[f"{field}_sha256"])
    assert same, f"each {field} was changed: embed them again"
    features[field] = golden[field]
  subtitles, captions = (
    language_gap.measure(features[field], features["description"]).nmi for field in ("subtitle", "caption")
  )
  assert subtitles > 0.1 and captions < 0.05
  assert all(language_gap.halves(texts).nmi < 0.03 for texts in features.values())


class Colours:
  """Embeds a text by the words that it has."""

  def embed_texts(self, texts):
    words = ("red", "green", "blue", "so", "well", "you")
    noise = np.random.default_rng(0).normal(0, 0.05, (len(texts), len(words)))
    return noise + np.array([[float(word in text.split()) for word in words] for text in texts])


def test_command(tmp_path, capsys):
  rng = np.random.default_rng(0)
  sources = []
  for name, words in (("captions", ("red", "green", "blue")), ("speech", ("so", "well", "you"))):
    lines = [" ".join(["the", *rng.choice(words, 2)]) for _ in range(300)]
    (tmp_path / f"{name}.txt").write_text("\n".join([*lines, "", "  "]))
    sources.append(str(tmp_path / f"{name}.txt"))
  options = types.SimpleNamespace(sources=sources, seed=0, plot=tmp_path / "gap.png")
  language_gap.report(Colours(), [language_gap.read_source(source) for source in sources], options)
  printed = capsys.readouterr().out
  gap, halves = (
    float(re.search(pattern, printed)[1]) for pattern in (r"(\S+) +300  \S+ against", r"(\S+) +150  halves")
  )
  assert gap > 0.9 and halves < 0.05
  assert options.plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"one\n" * 10, "has 10 texts; at least 100 are needed"),
    (b"\xff\xfe" * 300, "neither a file of texts"),
    (None, "No such"),
  ],
)
def test_sources_that_cannot_be_compared(tmp_path, content, words):
  path = tmp_path / "a.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=words) as refused:
    language_gap.main([str(path), str(path)])
  assert "\n" not in str(refused.value)
  with pytest.raises(UserError, match="at least 100 of each"):
    language_gap.measure(cloud(99, 0, 0), cloud(500, 0, 0))
