"""Draws clips to mp4 files in worker processes.

Workers import this module: it imports neither JAX nor TensorFlow nor TFDS.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import dataclasses
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Sequence

import numpy as np

from clipvip_jax.data.moving_shapes import render, scenes
from clipvip_jax.data.moving_shapes.plan import Clip
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError

_CHUNK = 16  # clips per task
_SETTINGS_FILE = "settings.json"


@dataclasses.dataclass(frozen=True)
class VideoFormat:
  """Format of a video file.

  Attributes:
    frames: number of frames.
    fps: frames per second.
    side: height and width in pixels; even.
    quantiser: quantiser of H.264, 0 (lossless) to 51.
  """

  frames: int
  fps: int
  side: int
  quantiser: int


def draw(clips: Sequence[Clip], folder: pathlib.Path, video_format: VideoFormat, num_workers: int) -> None:
  """Writes FOLDER/ID.mp4 of each clip that has no file yet.

  Args:
    clips: the clips.
    folder: created if absent.
    video_format: format of the files.
    num_workers: processes that draw; 0: only this process. Files do not depend on it.

  Raises:
    UserError: a worker process died.
  """
  folder.mkdir(parents=True, exist_ok=True)
  write = functools.partial(_draw, folder=folder, video_format=video_format)
  missing = [clip for clip in clips if not _path(folder, clip).exists()]
  if not num_workers or not missing:
    for clip in missing:
      write(clip)
    return
  # spawn: fork could deadlock on locks held by threads of this process.
  context = multiprocessing.get_context("spawn")
  try:
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
      for _ in pool.map(write, missing, chunksize=_CHUNK):
        pass
  except concurrent.futures.process.BrokenProcessPool:
    raise UserError(
      "a worker process died. Start the build from a module or under `if __name__ == '__main__':`, which Python's"
      " multiprocessing requires, or set num_workers=0. Completed videos are kept"
    ) from None


def _path(folder: pathlib.Path, clip: Clip) -> pathlib.Path:
  return folder / f"{clip.id}.mp4"


def _draw(clip: Clip, folder: pathlib.Path, video_format: VideoFormat) -> None:
  scene = scenes.stage(clip.appearance, clip.story, video_format.frames, np.random.default_rng(clip.key))
  # Intra-coded frames only: artefacts of predicted frames would reveal the direction of time.
  frames = render.render(scene, video_format.side)
  encode_h264(_path(folder, clip), frames, video_format.fps, quantiser=video_format.quantiser, keyframe_every=1)


def check_settings(folder: pathlib.Path, settings: dict[str, object]) -> None:
  """Writes settings to a new folder of videos, or compares them with those of an existing one.

  Raises:
    UserError: the videos in `folder` were drawn with other settings.
  """
  path = folder / _SETTINGS_FILE
  text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write.atomic_path(path) as temporary:
      temporary.write_text(text, encoding="utf-8")
    return
  try:
    old = json.loads(path.read_text(encoding="utf-8"))
  except ValueError:
    old = {}
  new = json.loads(text)
  if old != new:
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    raise UserError(
      f"{folder}: the videos were drawn with other settings ({', '.join(changed)}); delete this folder, or choose"
      " another config name or data_dir"
    )
