"""Frame sampling: T of a clip's n stored frames (CLIP-ViP, arXiv 2209.06430, section 4.1)."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from clipvip_jax.utils.errors import UserError

TIME_TOLERANCE = 1.1e-3  # seconds; Matroska rounds timestamps to 1 ms
MAX_FRAMES = 10_000  # of a clip in training and inference: larger numbers are mistakes that fill the memory
CORPUS_FPS = 3.0  # of most corpora, as HD-VILA has
_LONG_LAST_FRAME = 1.5  # times the average


def uniform_frames(num_frames: int, count: int) -> Int64[np.ndarray, " t"]:
  """Samples frames for evaluation, evenly spaced from first to last: int(linspace(0, n - 1, T)).

  Args:
    num_frames: n, frames in the clip, at least 1.
    count: T, frames to sample, at least 1. If more than n, frames repeat; 1 samples the first frame.

  Returns:
    Non-decreasing indices within [0, n - 1].

  Raises:
    UserError: n or T is below 1.
  """
  _check(num_frames, count)
  return np.linspace(0, num_frames - 1, count).astype(np.int64)


def uniform_in_time(begins: Sequence[float], end: float, count: int) -> Int64[np.ndarray, " t"]:
  """Samples frames of a video evenly in time: those of `uniform_frames` after conversion to a constant frame rate.

  The rate is the video's own if that is constant, so that these are `uniform_frames` of the video itself. Otherwise it
  is CORPUS_FPS, so that these are the frames that are sampled from a corpus; the average rate if that has too few. Of
  each instant, the frame that a player displays is taken.

  Args:
    begins: n times in seconds at which the frames begin, in ascending order.
    end: end of the last frame in seconds.
    count: T, frames to sample, at least 1.

  Returns:
    Non-decreasing indices within [0, n - 1].

  Raises:
    UserError: n or T is below 1.
  """
  indices = uniform_frames(len(begins), count)
  if begins[-1] <= begins[0]:  # a single frame, or a file without times
    return indices
  interval = (begins[-1] - begins[0]) / (len(begins) - 1)
  if end - begins[-1] > _LONG_LAST_FRAME * interval:  # otherwise, the duration of the last frame is often a guess
    interval = (end - begins[0]) / len(begins)
  sampled = _displayed(begins, indices * interval)
  in_corpus = samples_before(begins[0], end, CORPUS_FPS)
  if np.array_equal(sampled, indices) or in_corpus < count:
    return sampled
  return _displayed(begins, uniform_frames(in_corpus, count) / CORPUS_FPS)


def samples_before(begin: float, end: float, fps: float) -> int:
  """Returns how many of the times begin + k / fps are before `end`."""
  return math.ceil((end - begin - TIME_TOLERANCE) * fps)


def _displayed(begins: Sequence[float], seconds: np.ndarray) -> Int64[np.ndarray, " t"]:
  """Returns the indices of the frames that are displayed at times after the first frame's."""
  return np.searchsorted(begins, begins[0] + seconds + TIME_TOLERANCE, side="right") - 1


def jittered_frames(num_frames: int, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " t"]:
  """Samples frames for training, evenly spaced between a random first and a random last frame.

  With gap = int(n / (T - 1)), the first is uniform over [0, gap] and the last over [n - 1 - gap, n - 1]. Both are
  integers and both bounds are inclusive, so that the clip's last frame can be sampled. T = 1 samples one frame
  uniformly.

  Args:
    num_frames: n, frames in the clip, at least 1.
    count: T, frames to sample, at least 1. If more than n, frames repeat.
    rng: the only source of randomness.

  Returns:
    Non-decreasing indices within [0, n - 1].

  Raises:
    UserError: n or T is below 1.
  """
  _check(num_frames, count)
  if count == 1:
    return rng.integers(num_frames, size=1)
  # Short clips: T = 2 gives a gap of n, which is out of range; for T = 2 or 3 the two ranges overlap, so that the
  # first frame may be after the last one. Neither happens for T > 3.
  gap = min(num_frames // (count - 1), num_frames - 1)
  first, last = sorted((rng.integers(gap + 1), rng.integers(num_frames - 1 - gap, num_frames)))
  return np.linspace(first, last, count).astype(np.int64)


def middle_frame(num_frames: int) -> int:
  """Returns the index of the frame that image captions describe, int(n / 2).

  Args:
    num_frames: n, frames in the clip, at least 1.

  Raises:
    UserError: n is below 1.
  """
  _check(num_frames, 1)
  return num_frames // 2


def _check(num_frames: int, count: int) -> None:
  if num_frames < 1:
    raise UserError(f"cannot sample from a clip of {num_frames} frames; remove the clip from the corpus")
  if count < 1:
    raise UserError(f"cannot sample {count} frames from a clip; sample at least 1")
