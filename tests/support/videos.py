"""Short videos of distinct colours, as files."""

import numpy as np

from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.video_encoder import encode_h264


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
  return read_media.list_videos(folder)
