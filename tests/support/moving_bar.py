"""A video whose frames all differ."""

import numpy as np


def moving_bar(count=24, height=48, width=64):
  """Returns uint8 [T, H, W, 3] frames with a bar that moves to the right."""
  frames = np.full((count, height, width, 3), (30, 60, 90), np.uint8)
  for t in range(count):
    frames[t, :, 2 * t : 2 * t + 12] = (220, 40, 30)
  return frames
