"""Opening videos: the stream that a player shows, and files that name others or are no videos."""

import av
import numpy as np
import pytest
from av.stream import Disposition
from moving_bar import moving_bar
from videos import decode_video

from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_container import open_video
from clipvip_jax.input_pipeline.video_encoder import encode_h264

SMALL, FILM = (48, 64), (96, 128)  # height, width


def write_streams(path, streams):
  """Writes one video with several streams: (codec, size, frames, frames per second, disposition) each."""
  with av.open(str(path), "w") as container:
    added = []
    for codec, (height, width), _, rate, disposition in streams:
      stream = container.add_stream(codec, rate=rate)
      stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if codec == "mjpeg" else "yuv420p"
      stream.disposition = disposition
      added.append(stream)
    for stream, (_, size, count, *_) in zip(added, streams, strict=True):
      for _ in range(count):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((*size, 3), 99, np.uint8), format="rgb24")))
      container.mux(stream.encode())
  return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize(
  ("preview", "film"), [(Disposition(0), Disposition.default), (Disposition.default, Disposition.default)]
)
def test_reads_the_film_rather_than_a_preview_before_it(tmp_path, suffix, preview, film):
  streams = [("libx264", SMALL, 2, 1, preview), ("libx264", FILM, 20, 10, film)]
  path = write_streams(tmp_path / f"x{suffix}", streams)
  assert decode_video(path).shape == (20, *FILM, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("default", [0, 1, 2])
def test_reads_the_default_stream_as_ffmpeg_does(tmp_path, suffix, default):
  sizes = [(48, 64), (96, 128), (64, 96)]
  streams = [("libx264", size, 12, 12, Disposition(int(i == default))) for i, size in enumerate(sizes)]
  path = write_streams(tmp_path / f"x{suffix}", streams)
  with av.open(str(path)) as container, open_video(path) as (_, stream):
    assert stream.index == container.streams.best("video").index == default


@pytest.mark.parametrize("cover_first", [True, False])
def test_a_cover_is_never_the_film(tmp_path, cover_first):
  cover = ("mjpeg", (512, 512), 1, 25, Disposition.attached_pic)
  film = ("libx264", SMALL, 3, 12, Disposition(0))
  path = write_streams(tmp_path / "x.mp4", [cover, film] if cover_first else [film, cover])
  assert decode_video(path).shape == (3, *SMALL, 3)
  only = write_streams(tmp_path / "cover.mp4", [cover])
  with pytest.raises(MediaError, match="has no video stream"):
    decode_video(only)


@pytest.mark.parametrize(("transfer", "refused"), [("undef", True), ("smpte2084", False)])
def test_dolby_vision_without_another_layer_is_refused(tmp_path, transfer, refused):
  path = tmp_path / "x.mp4"
  options = {"x265-params": f"log-level=none:transfer={transfer}:pools=none"}
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx265", rate=10, options=options)
    stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = 64, 64, "yuv420p10le", "hvc1"
    for _ in range(3):
      container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p10le")))
    container.mux(stream.encode())
  path.write_bytes(path.read_bytes().replace(b"hvc1", b"dvh1"))
  if not refused:
    assert decode_video(path).shape == (3, 64, 64, 3)
    return
  with pytest.raises(MediaError, match=r"Dolby Vision of profile 5, .*; convert it"):
    decode_video(path)


@pytest.mark.parametrize("name", ["talk.txt", "film.nfo", "art.asc", "art.ans", "talk.mp4"])
def test_texts_are_not_videos(tmp_path, name):
  """FFmpeg draws them as on a terminal."""
  (tmp_path / name).write_text("\n".join(f"00:{i:02d} so what we do is we take piece {i}" for i in range(60)))
  with pytest.raises(MediaError, match="not a video"):
    decode_video(tmp_path / name)


SCRIPTS = {
  "concat": "ffconcat version 1.0\nfile other.mp4\n",
  "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n",
  "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
  "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>other.mp4</BaseURL></MPD>',
}


@pytest.mark.parametrize("name", ["x.mp4", "x.m3u8", "x.ffconcat", "x.sdp"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_and_playlists_open_no_other_file(tmp_path, monkeypatch, script, name):
  monkeypatch.chdir(tmp_path)
  encode_h264(tmp_path / "other.mp4", moving_bar(), 12)
  (tmp_path / name).write_text(SCRIPTS[script])
  with pytest.raises(MediaError, match="not a video"):
    decode_video(name)


@pytest.mark.parametrize("suffix", ["bmp", "ppm", "tif"])
def test_a_name_is_never_a_pattern(tmp_path, suffix):
  """FFmpeg reads img1.bmp, img2.bmp, ... under the name img%d.bmp."""
  from PIL import Image

  for number in (1, 2):
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / f"img{number}.{suffix}")
  Image.new("RGB", (48, 48), (0, 0, 200)).save(tmp_path / f"img%d.{suffix}")
  if suffix == "tif":  # read by Pillow
    assert decode_video(tmp_path / "img%d.tif").shape == (1, 48, 48, 3)
  else:
    with pytest.raises(MediaError, match="not a video in a supported format"):
      decode_video(tmp_path / f"img%d.{suffix}")
  assert decode_video(tmp_path / f"img1.{suffix}").shape == (1, 32, 32, 3)
