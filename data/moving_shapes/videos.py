"""Clips to mp4 files, drawn side by side in worker processes.

Workers import this module: neither JAX nor TensorFlow nor TFDS is imported here.
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

from clipvip_jax.input_pipeline.video_decoder import encode_h264
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError
from data.moving_shapes import render, scenes
from data.moving_shapes.plan import Clip

_CHUNK = 16  # clips to a task
_SETTINGS_FILE = "settings.json"


@dataclasses.dataclass(frozen=True)
class Format:
  """How clips become files. side: pixels of both sides, even."""

  frames: int
  fps: int
  side: int
  quantiser: int


def draw(clips: Sequence[Clip], folder: pathlib.Path, form: Format, workers: int) -> None:
  """Writes FOLDER/ID.mp4 of each clip that has none yet.

  workers: processes; 0 works in this one. The result does not depend on it.
  """
  folder.mkdir(parents=True, exist_ok=True)
  write = functools.partial(_draw, folder=folder, form=form)
  missing = [clip for clip in clips if not _path(folder, clip).exists()]
  if not workers or not missing:
    for clip in missing:
      write(clip)
    return
  # spawn: a fork would copy the threads' locks of whoever builds.
  context = multiprocessing.get_context("spawn")
  try:
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
      for _ in pool.map(write, missing, chunksize=_CHUNK):
        pass
  except concurrent.futures.process.BrokenProcessPool:
    raise UserError(
      "a worker process ended before its work. Start the build from a module or from under"
      " `if __name__ == '__main__':`, as Python's multiprocessing asks, or set num_workers=0."
      " Videos that are finished are kept."
    ) from None


def _path(folder: pathlib.Path, clip: Clip) -> pathlib.Path:
  return folder / f"{clip.id}.mp4"


def _draw(clip: Clip, folder: pathlib.Path, form: Format) -> None:
  scene = scenes.stage(clip.appearance, clip.story, form.frames, np.random.default_rng(clip.key))
  # Each frame is coded by itself: what a predicted frame leaves of its neighbours would tell the direction.
  frames = render.render(scene, form.side)
  encode_h264(_path(folder, clip), frames, form.fps, quantiser=form.quantiser, keyframe_every=1)


def claim(folder: pathlib.Path, settings: dict[str, object]) -> None:
  """Notes in `folder` what its videos are made with. Raises UserError where they were made with something else."""
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
      f"{folder}: the videos here were made with other settings ({', '.join(changed)})."
      " Delete this folder, or build under another config name or data_dir."
    )
