"""Clips to mp4 files and back to stored frames, side by side in worker processes.

Workers import this module: neither JAX nor TensorFlow nor TFDS is imported here.
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import dataclasses
import itertools
import json
import multiprocessing
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from clipvip_jax import files
from clipvip_jax.errors import UserError
from clipvip_jax.input_pipeline.video import VideoError, decode_video, encode_h264
from data.moving_shapes import render, scenes
from data.moving_shapes.plan import Clip
from data.records import encode_jpegs

_CHUNK = 16  # clips to a task; even, so that twins stay together
_AHEAD = 3  # tasks waiting for each worker: enough to keep it busy, and memory does not grow with the corpus
_SETTINGS_FILE = "settings.json"


@dataclasses.dataclass(frozen=True)
class Format:
  """How clips become files and files become stored frames. side: pixels of both sides, even."""

  frames: int
  fps: int
  side: int
  quantiser: int
  jpeg_quality: int


@dataclasses.dataclass(frozen=True)
class Stored:
  """A clip's frames as JPEG bytes; or none, and the reason."""

  clip: Clip
  frames: list[bytes]
  reason: str = ""


def store(clips: Iterable[Clip], folder: pathlib.Path, form: Format, workers: int) -> Iterator[list[Stored]]:
  """Stored clips in order, a list of neighbours at a time. Videos found in `folder` are used as they are.

  workers: processes; 0 works in this one. The result does not depend on it.
  """
  folder.mkdir(parents=True, exist_ok=True)
  source = iter(clips)
  chunks = iter(lambda: list(itertools.islice(source, _CHUNK)), [])
  if not workers:
    yield from (_store_chunk(chunk, folder, form) for chunk in chunks)
    return
  # spawn: a fork would copy the threads' locks of whoever builds.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
    running: collections.deque[concurrent.futures.Future[list[Stored]]] = collections.deque()
    try:
      for chunk in chunks:
        running.append(pool.submit(_store_chunk, chunk, folder, form))
        if len(running) > _AHEAD * workers:
          yield running.popleft().result()
      while running:
        yield running.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError(
        "a worker process ended before its work. Start the build from a module or from under"
        " `if __name__ == '__main__':`, as Python's multiprocessing asks, or set num_workers=0."
        " Videos that are finished are kept."
      ) from None
    finally:
      pool.shutdown(wait=False, cancel_futures=True)  # where the reader stops early


def _store_chunk(clips: list[Clip], folder: pathlib.Path, form: Format) -> list[Stored]:
  return [_store_clip(clip, folder / f"{clip.id}.mp4", form) for clip in clips]


def _store_clip(clip: Clip, path: pathlib.Path, form: Format) -> Stored:
  if not path.exists():
    scene = scenes.stage(clip.appearance, clip.story, form.frames, np.random.default_rng(clip.key))
    # Each frame is coded by itself: what a predicted frame leaves of its neighbours would tell the direction.
    encode_h264(path, render.render(scene, form.side), form.fps, quantiser=form.quantiser, keyframe_every=1)
  try:
    frames = decode_video(path)
  except VideoError as error:
    return Stored(clip, [], error.reason)
  expected = (form.frames, form.side, form.side, 3)
  if frames.shape != expected:
    return Stored(clip, [], f"holds frames {frames.shape}, expected {expected}")
  return Stored(clip, encode_jpegs(frames, form.jpeg_quality))


def claim(folder: pathlib.Path, settings: dict[str, object]) -> None:
  """Notes in `folder` what its videos are made with. Raises UserError where they were made with something else."""
  path = folder / _SETTINGS_FILE
  text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
  if not path.exists():
    folder.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as temporary:
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
