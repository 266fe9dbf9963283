"""Search in an index: ranking, indexes of other models, and the printed lines."""

import dataclasses

import numpy as np
import pytest
from fake_model import FakeModel

from clipvip_jax.inference import video_index
from clipvip_jax.inference.approximate_index import open_graph
from clipvip_jax.inference.search import Hit, format_hits, search_index
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils.errors import UserError


def index_of(videos, features=None, identity="fake-1"):
  features = np.eye(3, dtype=np.float32)[: len(videos)] if features is None else features
  return VideoIndex(features, videos, "fake", identity, bad=[], reasons=[])


def test_best_videos_come_first_and_ties_in_the_order_of_the_index():
  hits = search_index(FakeModel(), index_of(["r.mp4", "g.mp4", "b.mp4"]), ["blue", "red and green"], top=2)
  assert hits[0] == [Hit("b.mp4", 1.0), Hit("r.mp4", 0.0)]
  assert [hit.video for hit in hits[1]] == ["r.mp4", "g.mp4"]


def test_agrees_with_sorting_by_score():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(50, 3)).astype(np.float32)
  videos = [f"{i}.mp4" for i in range(50)]
  (hits,) = search_index(FakeModel(), index_of(videos, features), ["red and blue"], top=7)
  scores = features[:, 0] + features[:, 2]
  expected = sorted(range(50), key=lambda i: -scores[i])[:7]
  assert [hit.video for hit in hits] == [videos[i] for i in expected]
  np.testing.assert_allclose([hit.score for hit in hits], scores[expected], rtol=1e-6)


def test_top_may_exceed_the_size_of_the_index():
  (hits,) = search_index(FakeModel(), index_of(["r.mp4"]), ["red"], top=10)
  assert hits == [Hit("r.mp4", 1.0)]


@pytest.mark.parametrize(
  ("index", "top", "message"),
  [
    (index_of(["r.mp4"], identity="other"), 1, r"built with other weights .* 'fake' .* name its model with --model"),
    (
      dataclasses.replace(index_of(["r.mp4"]), crop="center"),
      1,
      "built with crop='center', 'fake' is loaded with 'squash'; load it with crop='center', or build",
    ),
    (index_of(["r.mp4"]), 0, "--top=0 must be at least 1"),
    (index_of(["r.mp4"], np.zeros((1, 5), np.float32)), 1, "features of size 5, the model 3; build the index again"),
  ],
)
def test_unusable_indexes_and_options_are_refused(index, top, message):
  with pytest.raises(UserError, match=message):
    search_index(FakeModel(), index, ["red"], top)


def test_each_hit_is_one_printable_line():
  text = format_hits("q\n1", [Hit("a\n\x1b]0;x\x07\u202eb\udce9.mp4", 0.5), Hit("b.mp4", -0.25)])
  assert text.splitlines() == ["q\\n1", "   1   0.500  a\\n\\x1b]0;x\\x07\\u202eb\\udce9.mp4", "   2  -0.250  b.mp4"]


def test_only_selected_rows_are_searched():
  index = index_of(["r.mp4", "g.mp4", "b.mp4"])
  (hits,) = search_index(FakeModel(), index, ["red and blue"], 5, np.array([False, True, True]))
  assert hits == [Hit("b.mp4", 1.0), Hit("g.mp4", 0.0)] and [hit.row for hit in hits] == [2, 1]


def test_hits_of_segments_have_times():
  names = ["v@1-b.mp4@0-10", "v@1-b.mp4@70-3700.5", "still.png"]
  index = dataclasses.replace(index_of(names), segments="10s")
  ((first, second, third),) = search_index(FakeModel(), index, ["nothing"], 3)
  assert first == Hit("v@1-b.mp4", 0.0, 0.0, 10.0) and third == Hit("still.png", 0.0)
  text = format_hits("nothing", [first, second, third])
  assert [line.split("mp4  ")[-1] for line in text.splitlines()[1:3]] == ["0:00 to 0:10", "1:10 to 1:01:40.5"]
  assert text.endswith("still.png")
  (plain,) = search_index(FakeModel(), index_of(names[:1]), ["nothing"], 1)
  assert plain == [Hit("v@1-b.mp4@0-10", 0.0)], "names of an index without segments are paths"


def test_a_graph_finds_what_an_exact_search_finds_unless_rows_are_selected(tmp_path):
  rng = np.random.default_rng(0)
  features = rng.normal(size=(200, 3)).astype(np.float32)
  index = index_of([f"{row}.mp4" for row in range(200)], features)
  video_index.write_index(tmp_path / "i.safetensors", index)
  graph = open_graph(tmp_path / "i.safetensors", index)
  queries = ["red and blue", "green"]
  assert search_index(FakeModel(), index, queries, 5, graph=graph) == search_index(FakeModel(), index, queries, 5)
  selected = np.arange(200) < 20
  found = search_index(FakeModel(), index, queries, 30, selected, graph)
  assert found == search_index(FakeModel(), index, queries, 30, selected) and len(found[0]) == 20
