"""Which frames of a clip a model sees: n frames stored, T drawn (CLIP-ViP, arXiv 2209.06430, section 4.1)."""

import numpy as np

from clipvip_jax.utils.errors import UserError


def uniform_frames(num_frames: int, count: int) -> np.ndarray:
  """Frames for evaluation, spread evenly from the first to the last: int(linspace(0, n - 1, T)).

  Args:
    num_frames: n, the frames of the clip, at least 1.
    count: T, the frames to draw, at least 1; more than n repeats frames, 1 gives the first frame.

  Returns:
    int64 [T], never decreasing, within [0, n - 1].

  Raises:
    UserError: n or T below 1.
  """
  _check(num_frames, count)
  return np.linspace(0, num_frames - 1, count).astype(np.int64)


def jittered_frames(num_frames: int, count: int, rng: np.random.Generator) -> np.ndarray:
  """Frames for training: spread evenly between a first and a last frame that are drawn at random.

  With gap = int(n / (T - 1)) the first is uniform over 0 ... gap and the last over n - 1 - gap ... n - 1,
  both whole frames and both bounds included, so that the clip's last frame is seen too. T = 1 draws one
  frame, uniform over all.

  Args:
    num_frames: n, the frames of the clip, at least 1.
    count: T, the frames to draw, at least 1; more than n repeats frames.
    rng: the only source of randomness.

  Returns:
    int64 [T], never decreasing, within [0, n - 1].

  Raises:
    UserError: n or T below 1.
  """
  _check(num_frames, count)
  if count == 1:
    return rng.integers(num_frames, size=1)
  # Short clips: with T = 2 the gap would be n itself, which lies outside, and for T = 2 or 3 the two ranges
  # overlap, so that the first may be drawn behind the last. Neither happens for T > 3.
  gap = min(num_frames // (count - 1), num_frames - 1)
  first, last = sorted((rng.integers(gap + 1), rng.integers(num_frames - 1 - gap, num_frames)))
  return np.linspace(first, last, count).astype(np.int64)


def middle_frame(num_frames: int) -> int:
  """The frame that stands for a whole clip, for captions of one image: int(n / 2).

  Args:
    num_frames: n, the frames of the clip, at least 1.

  Returns:
    An index within [0, n - 1].

  Raises:
    UserError: n below 1.
  """
  _check(num_frames, 1)
  return num_frames // 2


def _check(num_frames: int, count: int) -> None:
  if num_frames < 1:
    raise UserError(f"a clip of {num_frames} frames has none to draw; it needs at least 1: leave it out of the corpus")
  if count < 1:
    raise UserError(f"cannot draw {count} frames from a clip; the number of frames must be at least 1")
