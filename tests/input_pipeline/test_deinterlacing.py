"""Deinterlacing of the frames that are marked as interlaced."""

import av
import numpy as np
import pytest
from moving_bar import moving_bar
from videos import decode_video

from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.video_decoder import iterate_pictures

FIELDS = moving_bar()  # two fields of each frame, one after the other
# Codec and options of: PAL DVDs, broadcasts, and a camera's H.264 in AVCHD.
INTERLACED = {
  "x.mpg": ("mpeg2video", {"flags": "+ildct+ilme", "qscale": "2"}),
  "x.ts": ("mpeg2video", {"flags": "+ildct+ilme", "qscale": "2", "top": "0"}),
  "x.mkv": ("libx264", {"x264-params": "tff=1", "qp": "4"}),
  "x.mp4": ("libx264", {"x264-params": "bff=1", "qp": "4"}),
}


def write(path, frames, codec, options):
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=25, options=options)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
  return path


def interlace(fields):
  frames = fields[0::2].copy()
  frames[:, 1::2] = fields[1::2][:, 1::2]
  return frames


def combs(frames):
  """Returns the mean difference of a line from the mean of its neighbours."""
  frames = frames.astype(float)
  return np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean()


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_frames_lose_their_combs_and_are_noted(tmp_path, name):
  frames = interlace(FIELDS)
  path = write(tmp_path / name, frames, *INTERLACED[name])
  with collect_notes() as notes:
    pictures = list(iterate_pictures(path))
  assert notes - {"unverifiable"} == {"interlaced"} and len(pictures) == len(frames)
  seconds = [picture.seconds for picture in pictures]
  np.testing.assert_allclose(np.array(seconds) - seconds[0], np.arange(len(frames)) / 25, atol=2e-3)
  assert combs(decode_video(path)[1:]) < 0.3 * combs(frames)


@pytest.mark.parametrize("name", INTERLACED)
def test_progressive_frames_are_unchanged(tmp_path, name):
  codec, _ = INTERLACED[name]
  path = write(tmp_path / name, FIELDS, codec, {})
  with collect_notes() as notes:
    decoded = decode_video(path)
  with av.open(str(path)) as container:
    plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
  assert notes <= {"unverifiable"}
  np.testing.assert_array_equal(decoded, np.stack(plain))


def test_progressive_frames_among_interlaced_ones_are_unchanged(tmp_path):
  """Two recordings in a transport stream, as of a channel that changes from film to studio."""
  options = INTERLACED["x.ts"][1]
  film = write(tmp_path / "film.ts", FIELDS, "mpeg2video", {"qscale": "2"})
  studio = write(tmp_path / "studio.ts", interlace(FIELDS), "mpeg2video", options)
  path = tmp_path / "x.ts"
  path.write_bytes(film.read_bytes() + studio.read_bytes() + film.read_bytes())
  with av.open(str(path)) as container:
    plain = [(frame.interlaced_frame, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
  decoded = decode_video(path)
  assert len(decoded) == len(plain) and 0 < sum(interlaced for interlaced, _ in plain) < len(plain)
  for result, (interlaced, frame) in zip(decoded, plain, strict=True):
    assert interlaced or np.array_equal(result, frame)
