"""Deterministic H.264 encoding."""

import os
import pathlib

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.utils import atomic_write


def encode_h264(
  path: str | os.PathLike[str],
  frames: UInt8[np.ndarray, "t h w 3"],
  fps: int,
  *,
  quantiser: int = 18,
  keyframe_every: int = 12,
) -> None:
  """Writes frames as an H.264 mp4, atomically; equal frames give byte-identical files with the same x264.

  Args:
    path: the file to write.
    frames: RGB, T >= 1, H and W even.
    fps: frames per second.
    quantiser: x264's constant quantiser, 0 (lossless) to 51.
    keyframe_every: frames per key frame; 1 encodes each frame independently.

  Raises:
    ValueError: `frames` has another shape.
  """
  import av

  if frames.ndim != 4 or frames.shape[3] != 3 or not len(frames) or any(n % 2 for n in frames.shape[1:3]):
    raise ValueError(f"frames {frames.shape}: expected [T, H, W, 3] with T >= 1 and even H and W")
  exact = {"fflags": "+bitexact"}  # omits the library's version from the file
  with (
    atomic_write.atomic_path(pathlib.Path(path)) as temporary,
    av.open(os.fspath(temporary), "w", format="mp4", container_options=exact) as container,
  ):
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    stream.thread_count = 1  # the number of threads changes the bytes
    stream.options = {
      "preset": "veryfast",
      "qp": str(quantiser),
      "g": str(keyframe_every),
      "x264-params": "threads=1",
      "flags": "+bitexact",
    }
    converter = av.video.reformatter.VideoReformatter()
    for frame in frames:
      picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
      container.mux(stream.encode(converter.reformat(picture, format="yuv420p", threads=1)))
    container.mux(stream.encode())
