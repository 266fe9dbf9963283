"""Views of clips: their frames, their mean feature, and parts of videos."""

import pathlib

import numpy as np
import pytest
from fake_model import FakeModel
from moving_bar import moving_bar

from clipvip_jax.inference.index_builder import build_index
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.inference.video_views import ViewEmbedder, mean_direction
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def video(tmp_path):
  path = tmp_path / "bar.mp4"
  encode_h264(path, moving_bar(), fps=12)
  return str(path)


def test_views_are_consecutive_frames_of_one_sampling(video):
  embedder = ViewEmbedder(FakeModel(), [VideoClip(video)], views=3)
  clips = embedder.read_clip(video)
  np.testing.assert_array_equal(clips.reshape(6, 8, 8, 3), read_media.read_clip(video, 6, 8))
  assert clips.shape == (3, 2, 8, 8, 3)


def test_a_feature_is_the_mean_of_its_views_of_unit_length(video):
  model, embedder = FakeModel(), ViewEmbedder(FakeModel(), [VideoClip(video)], views=3)
  clips = [embedder.read_clip(video), embedder.read_clip(video)[::-1] + 1]
  features = list(embedder.embed_pixels(iter(clips)))
  for clip, feature in zip(clips, features, strict=True):
    mean = sum(next(model.embed_pixels([view])).astype(np.float64) for view in clip) / 3
    np.testing.assert_allclose(feature, mean / np.sqrt((mean**2).sum()), atol=1e-6)


def test_one_view_is_what_the_model_embeds(video):
  embedder = ViewEmbedder(FakeModel(), [VideoClip(video)])
  clip = embedder.read_clip(pathlib.Path(video))
  np.testing.assert_array_equal(clip, read_media.read_clip(video, 2, 8)[None])
  np.testing.assert_array_equal(next(embedder.embed_pixels([clip])), next(FakeModel().embed_pixels(clip)))
  assert embedder.identity == FakeModel.identity
  single = np.array([3.0, 4.0])
  assert mean_direction([single]) is single


def test_parts_of_a_video_have_names_and_features_of_their_own(tmp_path, video):
  parts = [VideoClip(video), VideoClip(video, None, 0.5), VideoClip(video, 1.25), VideoClip(video, 0.5, 1)]
  assert [part.name.removeprefix(video) for part in parts] == ["", "@0-0.5", "@1.25-", "@0.5-1"]
  embedder = ViewEmbedder(FakeModel(), parts, views=2)
  index = build_index(embedder, embedder.names, tmp_path / "i.safetensors")
  assert index.videos == [part.name for part in parts] and index.identity == "fake-1, 2 views"
  assert len(np.unique(index.features, axis=0)) == 4
  bad = [*parts, VideoClip(video, 50, 60)]
  embedder = ViewEmbedder(FakeModel(), bad)
  index = build_index(embedder, embedder.names, tmp_path / "j.safetensors", max_skipped=0.5)
  assert index.bad == [f"{video}@50-60"] and "start=50 is after the end of the video" in index.reasons[0]


def test_clips_of_one_video_that_differ_by_milliseconds_have_different_names():
  """In a day of video, six digits would name clips of the same minute equally."""
  clips = [VideoClip("v.mp4", 86_000 + milliseconds / 1000, 86_400.5) for milliseconds in range(3)]
  assert [clip.name for clip in clips] == ["v.mp4@86000-86400.5", "v.mp4@86000.001-86400.5", "v.mp4@86000.002-86400.5"]


def test_spellings_of_a_path_are_one_name(tmp_path, video):
  clip = VideoClip(f"{tmp_path}/.//bar.mp4", 0.5)
  embedder = ViewEmbedder(FakeModel(), [clip])
  index = build_index(embedder, embedder.names, tmp_path / "i.safetensors")
  assert index.videos == [clip.name] == [f"{video}@0.5-"]


def test_too_many_views_are_refused():
  for views in (0, 5001):
    with pytest.raises(UserError, match=f"--views={views} must be 1 to 5000, with 2 frames each"):
      ViewEmbedder(FakeModel(), [], views)
