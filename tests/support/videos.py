"""Short videos as files: of distinct colours, and of all containers."""

import pickle

import numpy as np
import pytest

from clipvip_jax.input_pipeline import list_media
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.video_decoder import iterate_pictures
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


def write_videos(folder, count=10, bad=()):
  """Writes 000.mp4, 001.mp4, ...; those whose numbers are in `bad` are not videos. Returns their paths."""
  folder.mkdir(exist_ok=True)
  for number in range(count):
    path = folder / f"{number:03d}.mp4"
    if number in bad:
      path.write_bytes(b"<html>")
      continue
    frames = np.full((4, 16, 16, 3), 20, np.uint8)
    frames[..., number % 3] = 200
    frames[..., (number + 1) % 3] = 10 * number
    encode_h264(path, frames, fps=4)
  return list_media.list_videos(folder)


def write_movie(path, video, audio=None, count=50, container=None, codec_options=None, more_sound=0, **options):
  """Writes noisy frames at 25 per second, and as much sound.

  Args:
    path: the file; returned.
    video: name of the video codec.
    audio: name of the audio codec; None for no sound.
    count: number of frames.
    container: name of the format; None for that of the suffix.
    codec_options: options of the video codec.
    more_sound: after the last frame, in frames.
    options: options of the container, such as movflags="faststart".
  """
  import av

  random = np.random.default_rng(0)
  still = random.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
  with av.open(str(path), "w", format=container, options=options) as file:
    picture = file.add_stream(video, rate=25, options=codec_options or {})
    picture.width, picture.height, picture.pix_fmt = 64, 48, "rgb8" if video == "gif" else "yuv420p"
    sound = file.add_stream(audio, rate=48000, layout="mono", bit_rate=64000) if audio else None
    for index in range(count + more_sound):
      if index < count:
        noisy = np.roll(still, index, 1) // 2 + random.integers(0, 100, still.shape, np.uint8)
        file.mux(picture.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
      if sound:
        samples = random.normal(0, 0.1, (1, 1920)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 1920 * index
        file.mux(sound.encode(frame))
    file.mux(picture.encode())
    if sound:
      file.mux(sound.encode())
  return path


# Name of a file: (video codec, audio codec, count, container) of `write_movie`.
MOVIES = {
  "sound.mkv": ("libx264", "aac"),
  "sound.webm": ("libvpx", "libopus"),
  "sound.avi": ("mpeg4", "mp3"),
  "sound.wmv": ("wmv2", "wmav2"),
  "sound.flv": ("flv1", "mp3"),
  "sound.ogv": ("libvpx", "libopus", 50, "ogg"),
  "silent.gif": ("gif",),
}
# The same for files of H.264 and AAC: container options.
MOVIE_OPTIONS = {
  "fast.mp4": {"movflags": "faststart"},
  "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"},
  "indexed.mp4": {"movflags": "dash+frag_keyframe"},
  "live.mkv": {"live": "1"},
}


def write_named_movie(folder, name):
  """Writes one of MOVIES or MOVIE_OPTIONS, of a key frame in ten; returns its path."""
  arguments, options = MOVIES.get(name, ("libx264", "aac")), MOVIE_OPTIONS.get(name, {})
  fast = {"deadline": "realtime", "cpu-used": "8"} if arguments[0] == "libvpx" else {}
  return write_movie(folder / name, *arguments, codec_options={"g": "10", **fast}, **options)


def decode_video(path):
  """Returns every frame of a file in RGB: uint8 [T, H, W, 3]."""
  return np.stack([picture.rgb() for picture in iterate_pictures(path)])


def assert_rejected(path, message):
  """Checks that a file cannot be decoded, for a reason that matches `message`, and that the error can be pickled."""
  with pytest.raises(MediaError, match=message) as caught:
    decode_video(path)
  assert isinstance(caught.value, UserError) and str(caught.value) == f"{path}: {caught.value.reason}"
  copy = pickle.loads(pickle.dumps(caught.value))
  assert (str(copy), copy.path, copy.reason) == (str(caught.value), str(path), caught.value.reason)


def notes_of(path, start=None, end=None):
  """Returns ([time of each picture], notes) of an accepted file."""
  with collect_notes() as notes:
    return [picture.seconds for picture in iterate_pictures(path, start, end)], notes
