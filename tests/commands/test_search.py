"""Searching an index: ranking, the page, and files that are no index."""

import numpy as np
import pytest
from fake_model import FakeModel

from clipvip_jax import search
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.input_pipeline.video_decoder import encode_h264
from clipvip_jax.utils.errors import UserError


def an_index(videos, features=None, **changes):
  features = np.eye(3, dtype=np.float32)[: len(videos)] if features is None else features
  fields = {"source": "fake", "identity": "fake-1", "bad": [], "reasons": []}
  return VideoIndex(features=features, videos=videos, **{**fields, **changes})


def test_the_best_come_first_and_ties_in_the_order_of_the_index():
  found = search.search(FakeModel(), an_index(["r.mp4", "g.mp4", "b.mp4"]), ["blue", "red and green"], top=2)
  assert found[0] == [search.Hit("b.mp4", 1.0), search.Hit("r.mp4", 0.0)]
  assert [hit.video for hit in found[1]] == ["r.mp4", "g.mp4"]
  assert search.table("blue", found[0]).splitlines()[1] == "   1   1.000  b.mp4"


def test_another_models_index_is_refused():
  with pytest.raises(UserError, match=r"other weights.*--model"):
    search.search(FakeModel(), an_index(["r.mp4"], identity="other"), ["red"], top=1)
  with pytest.raises(UserError, match="--top=0"):
    search.search(FakeModel(), an_index(["r.mp4"]), ["red"], top=0)


def test_the_page_shows_frames_and_escapes_names(tmp_path):
  video = tmp_path / "a<b>&.mp4"
  encode_h264(video, np.full((4, 32, 64, 3), 90, np.uint8), fps=4)
  hits = [[search.Hit(str(video), 0.5), search.Hit("gone<script>.mp4", 0.25)]]
  search.write_page(tmp_path / "page.html", ["<script>alert(1)</script>"], hits)
  page = (tmp_path / "page.html").read_text()
  assert page.count("data:image/jpeg;base64,") == 4, "all that it has"
  assert "cannot be read any more" in page and "<script" not in page and "a&lt;b&gt;&amp;.mp4" in page
  assert "default-src 'none'" in page
  with pytest.raises(UserError, match="--html="):
    search.write_page(tmp_path / "none" / "page.html", [], [])


def test_an_index_of_other_width_is_refused():
  wide = an_index(["r.mp4"], np.zeros((1, 5), np.float32))
  with pytest.raises(UserError, match="features of 5 numbers, the model gives 3"):
    search.search(FakeModel(), wide, ["red"], top=1)


def test_names_and_queries_stay_on_their_line():
  table = search.table("q\n1", [search.Hit("a\n\x1b]0;x\x07\u202eb\udce9.mp4", 0.5)])
  assert table == "q\\n1\n   1   0.500  a\\n\\x1b]0;x\\x07\\u202eb\\udce9.mp4"


@pytest.mark.parametrize("shape", [(2, 2), (1, 3000), (3000, 1), (1080, 1920)])
def test_frames_of_any_shape_fit_the_page(shape):
  height, width = search._small(np.zeros((*shape, 3), np.uint8)).shape[:2]
  assert 1 <= height <= min(320, shape[0]) and 1 <= width <= min(160, shape[1])
