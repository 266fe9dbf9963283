"""Embeddings of position for another image size or text length than the weights were trained with."""

import numpy as np
from jaxtyping import Float

# PyTorch's (and OpenCV's) bicubic kernel; Keys' original has -0.5.
_A = -0.75


def _cubic(distance: np.ndarray) -> np.ndarray:
  x = np.abs(distance)
  near = ((_A + 2) * x - (_A + 3)) * x * x + 1
  far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _weights(old: int, new: int, kernel, reach: int) -> Float[np.ndarray, "new old"]:
  """Row i: how much each old place counts for new place i. Half-pixel centres, borders repeated, no antialiasing."""
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  matrix = np.zeros((new, old))
  for offset in range(1 - reach, reach + 1):
    place = np.floor(centres).astype(int) + offset
    np.add.at(matrix, (np.arange(new), np.clip(place, 0, old - 1)), kernel(centres - place))
  return matrix


def resize_grid(position: Float[np.ndarray, "1+l d"], grid: int) -> Float[np.ndarray, "1+m d"]:
  """The vision tower's embedding for `grid` x `grid` patches: bicubic over the grid, the class token's row kept.

  Equal to torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
  """
  old = round((len(position) - 1) ** 0.5)
  if old == grid:
    return position
  matrix = _weights(old, grid, _cubic, 2)
  patches = np.asarray(position[1:], np.float64).reshape(old, old, -1)
  resized = np.einsum("yi,xj,ijd->yxd", matrix, matrix, patches, optimize=True).reshape(grid * grid, -1)
  return np.concatenate([position[:1], resized.astype(position.dtype)])


def resize_text(position: Float[np.ndarray, "s d"], length: int) -> Float[np.ndarray, "n d"]:
  """The text tower's embedding for `length` tokens.

  Shorter: cut, so that a text which fits keeps its features. Longer: linear over the whole, as nothing was trained
  beyond the end.
  """
  if length <= len(position):
    return position[:length]
  matrix = _weights(len(position), length, lambda x: np.maximum(1 - np.abs(x), 0), 1)
  return (matrix @ position.astype(np.float64)).astype(position.dtype)
