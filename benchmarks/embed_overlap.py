"""Benchmark of overlapping video decoding with model computation in `embed`.

  python -m benchmarks.embed_overlap

Embeds 200 generated mp4 files (60 frames of 320 x 240) with a random model of B/32's width on 4 frames of 128 pixels.
Measures decoding alone (one thread, and one per core), the model alone, both in sequence, and overlapped as in `embed`.
"""

import os
import pathlib
import tempfile
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from clipvip_jax.configs import common
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.input_pipeline import list_media, read_media
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.models import clip_vip

VIDEOS, FRAMES = 200, 4


def model() -> EmbeddingModel:
  """Returns a random model with six vision blocks of B/32's width."""
  sizes = common.model_b32()
  sizes.update({"image_size": 128, "dtype": "float32"})
  sizes.vision.layers, sizes.text.layers = 6, 1
  net = clip_vip.from_config(sizes)
  params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 1, 128, 128, 3), np.float32), np.zeros((1, 2), np.int32))[
    "params"
  ]
  config = ConfigDict({"model": sizes.to_dict(), "data": {"num_frames": FRAMES, "text_length": 16, "crop": "squash"}})
  return EmbeddingModel("random", config, params, None, batch_size=20)


def seconds(function) -> float:
  """Returns the duration of a call."""
  started = time.perf_counter()
  function()
  return time.perf_counter() - started


def main() -> None:
  """Generates the files, measures and prints a table."""
  net, cores = model(), os.cpu_count() or 1
  with tempfile.TemporaryDirectory() as folder:
    rng = np.random.default_rng(0)
    for number in range(VIDEOS):
      picture = rng.integers(0, 256, (60, 15, 20, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
      encode_h264(pathlib.Path(folder, f"{number}.mp4"), picture, fps=12)
    videos = list_media.list_videos(folder)
    pixels = [value for _, value in read_media.map_in_threads(videos, net.read_clip, cores)]
    list(net.embed_pixels(pixels[:20]))  # compiles
    one = seconds(lambda: list(read_media.map_in_threads(videos, net.read_clip, 1)))
    many = seconds(lambda: list(read_media.map_in_threads(videos, net.read_clip, cores)))
    computing = seconds(lambda: list(net.embed_pixels(pixels)))
    together = seconds(lambda: net.embed_videos(videos, progress=False))
  print(f"decoding, one thread            {one:6.2f} s")
  print(f"decoding, {cores} threads             {many:6.2f} s")
  print(f"computing                       {computing:6.2f} s")
  print(f"one thread, then computing      {one + computing:6.2f} s")
  print(f"{cores} threads, then computing       {many + computing:6.2f} s")
  print(
    f"overlapped                      {together:6.2f} s, speedup over one thread {(one + computing) / together:.2f}"
  )


if __name__ == "__main__":
  main()
