"""Segments of videos: their times, items without times, and the index of them."""

import itertools

import corpora
import numpy as np
import pytest
import simplejpeg
from fake_model import FakeModel
from videos import write_videos

from clipvip_jax.inference import index_builder, segments, video_index
from clipvip_jax.inference.index_builder import IndexLayout, build_index
from clipvip_jax.inference.index_shards import Shard, join_shards
from clipvip_jax.inference.search import search_index
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.inference.video_views import ViewEmbedder
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


def write_scenes(path, colours, frames_each, fps=4):
  """Writes a video of one colour after the other: 0 red, 1 green, 2 blue."""
  frames = np.full((len(colours), frames_each, 16, 16, 3), 20, np.uint8)
  for scene, colour in zip(frames, colours, strict=True):
    scene[..., colour] = 200
  encode_h264(path, frames.reshape(-1, 16, 16, 3), fps=fps)
  return path


@pytest.mark.parametrize(
  ("count", "expected"),
  [
    (32, [(0, 2), (2, 4), (4, 6), (6, 8)]),
    (35, [(0, 2), (2, 4), (4, 6), (6, 8.75)]),  # a short rest belongs to the segment before it
    (37, [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9.25)]),
    (3, [(0, 0.75)]),
    (1, [(None, None)]),
  ],
)
def test_segments_cover_the_video(tmp_path, count, expected):
  video = write_scenes(tmp_path / "v.mp4", [0], count)
  ((*clips,),) = segments.split_videos([video], 2.0, threads=1)
  assert [(clip.start, clip.end) for clip in clips] == expected
  assert all(clip.path == str(video) for clip in clips)


@pytest.mark.parametrize(("hours", "seconds"), [(30, 0.1), (4, 0.15), (300, 0.75)])
def test_short_segments_far_into_a_video_have_their_length(monkeypatch, hours, seconds):
  end = hours * 3600 + 0.234
  monkeypatch.setattr(segments.read_media, "video_seconds", lambda video: (0.0, end))
  (clips,) = segments.split_videos(["v.mp4"], seconds, threads=1)
  for clip in clips[-2000:-1]:
    named = VideoClip.from_name(clip.name)
    assert named == clip and abs(clip.end - clip.start - seconds) < 0.03 * seconds
  assert clips[-1].end == pytest.approx(end, abs=0.01 * seconds) and clips[-1].end - clips[-1].start > 0.4 * seconds


@pytest.mark.parametrize("span", [(12.0, 12.0), (0.5, 0.5)])
def test_a_video_whose_frames_have_one_time_is_one_item(tmp_path, monkeypatch, span):
  monkeypatch.setattr(segments.read_media, "video_seconds", lambda video: span)
  assert segments.split_videos([tmp_path / "v.mp4"], 10.0, threads=1) == [[VideoClip(str(tmp_path / "v.mp4"))]]


def test_images_folders_and_unreadable_videos_are_one_item(tmp_path):
  frame = np.zeros((16, 16, 3), np.uint8)
  (tmp_path / "f").mkdir()
  for path in (tmp_path / "f" / "1.jpg", tmp_path / "f" / "2.jpg", tmp_path / "i.jpg"):
    path.write_bytes(simplejpeg.encode_jpeg(frame))
  (tmp_path / "bad.mp4").write_bytes(b"<html>")
  items = [tmp_path / name for name in ("f", "i.jpg", "bad.mp4", "none.mp4")]
  assert segments.split_videos(items, 10.0, threads=2) == [[VideoClip(str(item))] for item in items]


def test_an_outage_of_a_bucket_does_not_make_a_video_one_item(tmp_path, monkeypatch):
  def fail(video):
    raise UserError("the bucket cannot be reached")

  monkeypatch.setattr(segments.read_media, "video_seconds", fail)
  with pytest.raises(UserError, match="the bucket cannot be reached"):
    segments.split_videos([tmp_path / "a.mp4"], 10.0, threads=1)


@pytest.mark.parametrize(
  ("parts", "expected"),
  [
    ({0: (0, 2, 1)}, [0, 2, 1]),
    ({1000: (0, 2, 1)}, [0, 2, 1]),  # as a broadcast, which does not start at 0
    ({0: (0, 2), 0.2: (1, 0)}, [0, 2, 1, 0]),  # two recordings in one file, each with its own clock
    ({0: (0, 2), 5000: (1, 0)}, [0, 2, 1, 0]),
    ({5000: (0, 2), 7: (1, 0)}, [0, 2, 1, 0]),
  ],
)
def test_segments_of_a_transport_stream_have_times_from_its_start(tmp_path, parts, expected):
  content = b""
  for offset, colours in parts.items():
    frames = np.full((len(colours), 24, 48, 64, 3), 20, np.uint8)
    for scene, colour in zip(frames, colours, strict=True):
      scene[..., colour] = 200
    part = corpora.encode(
      tmp_path / "part.ts", frames.reshape(-1, 48, 64, 3), "mpeg2video", rate=24, start=offset, g="12"
    )
    content += part.read_bytes()
  (tmp_path / "v.ts").write_bytes(content)
  (clips,) = segments.split_videos([tmp_path / "v.ts"], 1.0, threads=1)
  assert [(clip.start, round(clip.end)) for clip in clips] == [(n, n + 1) for n in range(len(expected))]
  frames = [read_media.read_frames(clip.path, 4, (clip.start, clip.end)) for clip in clips]
  assert [[frame.mean((0, 1)).argmax() for frame in four] for four in frames] == [[colour] * 4 for colour in expected]


@pytest.mark.parametrize(
  ("name", "codec"), [("v.mkv", "libx264"), ("v.mp4", "libx264"), ("v.avi", "mpeg4"), ("v.wmv", "wmv2")]
)
def test_segments_of_rare_frames_end_with_the_last_of_them(tmp_path, name, codec):
  frames = np.full((4, 48, 64, 3), 20, np.uint8)
  for frame, colour in zip(frames, (0, 1, 2, 0), strict=True):
    frame[..., colour] = 200
  video = corpora.encode(tmp_path / name, frames, codec, rate=25, times=[0, 3, 6, 9])
  (clips,) = segments.split_videos([video], 1.0, threads=1)
  shown = [[frame.mean((0, 1)).argmax() for frame in read_media.read_frames(video, 2, (c.start, c.end))] for c in clips]
  assert shown == [[0, 0]] * 3 + [[1, 1]] * 3 + [[2, 2]] * 2 + [[2, 0]]
  assert [clip.start for clip in clips] == list(range(9)) and 9 < clips[-1].end < 9.1


def embed_segments(videos, out, seconds, shard=None):
  label, selected = "", videos
  if shard is not None:
    label, selected, out = shard.label(videos), shard.select(videos), shard.path(out)
  clips = segments.split_videos(selected, seconds, threads=2)
  embedder = ViewEmbedder(FakeModel(), itertools.chain.from_iterable(clips))
  layout = IndexLayout(segments.part_sizes(clips), f"{seconds:g}s", label)
  return build_index(embedder, embedder.names, out, max_skipped=0.5, layout=layout)


def test_search_returns_the_moment(tmp_path):
  videos = [write_scenes(tmp_path / f"{n}.mp4", colours, 8) for n, colours in enumerate([(0, 2, 0, 1), (0, 0)])]
  embed_segments(videos, tmp_path / "i.safetensors", 2.0)
  index = video_index.read_index(tmp_path / "i.safetensors")
  assert index.segments == "2s" and len(index.videos) == 6
  blue, green = search_index(FakeModel(), index, ["blue", "green"], 1)
  assert [(hit.video, hit.start, hit.end) for hit in blue + green] == [(str(videos[0]), 2, 4), (str(videos[0]), 6, 8)]


def test_shards_of_segments_join_to_a_single_build(tmp_path, monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 2)
  write_videos(tmp_path / "v", 7, bad=(4,))
  videos = sorted((tmp_path / "v").iterdir())
  write_scenes(videos[1], (0, 1, 2), 8)
  write_scenes(videos[5], (2, 1), 8)
  out, single = tmp_path / "i.safetensors", tmp_path / "single.safetensors"
  embed_segments(videos, single, 1.0)
  for number in range(3):
    embed_segments(videos, out, 1.0, Shard(number, 3))
  join_shards(out, 0.5)
  assert out.read_bytes() == single.read_bytes() and len(video_index.read_index(out).videos) == 6 + 4 + 4


def test_parts_end_at_the_borders_of_shards(monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 2)
  clips = [[VideoClip(f"{n}", k, k + 1) for k in range(count)] for n, count in enumerate((3, 2, 1, 1, 4))]
  assert segments.part_sizes(clips) == [2, 2, 1, 2, 2, 2]


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10.0), ("2.5s", 2.5), ("0.1s", 0.1)])
def test_lengths(text, seconds):
  assert segments.parse_seconds(text) == seconds


@pytest.mark.parametrize(
  "text", ["", "10", "s", "-1s", "0s", "0.05s", "1m", "nans", "1e3s", "9999999s", "9" * 400 + "s"]
)
def test_other_lengths_are_refused(text):
  with pytest.raises(UserError, match=r"not a length of at least 0\.1s and below 1000000s; write seconds") as refused:
    segments.parse_seconds(text)
  assert len(str(refused.value)) < 200
