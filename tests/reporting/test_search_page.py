"""The page of search results: frames, escaping, and videos that no longer exist."""

import numpy as np
import pytest

from clipvip_jax.inference.search import Hit
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.reporting.search_page import write_search_page
from clipvip_jax.utils.errors import UserError


def test_page_shows_frames_and_escapes_names(tmp_path):
  video = tmp_path / "a<b>&.mp4"
  encode_h264(video, np.full((4, 32, 64, 3), 90, np.uint8), fps=4)
  hits = [[Hit(str(video), 0.5), Hit("gone<script>.mp4", 0.25)]]
  write_search_page(tmp_path / "page.html", ["<script>alert(1)</script>"], hits)
  page = (tmp_path / "page.html").read_text()
  assert page.count("data:image/jpeg;base64,") == 4, "each frame of a short video once"
  assert "This video cannot be read" in page and "<script" not in page and "a&lt;b&gt;&amp;.mp4" in page
  assert "default-src 'none'" in page and "0.500" in page and "0.250" in page


def test_page_shows_the_frames_of_moments(tmp_path):
  frames = np.full((8, 32, 64, 3), 90, np.uint8)
  encode_h264(tmp_path / "v.mp4", frames, fps=4)
  moments = [Hit(str(tmp_path / "v.mp4"), 0.5, 0.0, 0.5), Hit(str(tmp_path / "v.mp4"), 0.5, 0.5, 1.25)]
  write_search_page(tmp_path / "page.html", ["square"], [moments])
  page = (tmp_path / "page.html").read_text()
  assert page.count("data:image/jpeg;base64,") == 2 + 3, "two and three frames"
  assert "0:00 to 0:00.5, similarity" in page and "0:00.5 to 0:01.25, similarity" in page


def test_unwritable_page_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"--html=.*none/page\.html"):
    write_search_page(tmp_path / "none" / "page.html", [], [])
