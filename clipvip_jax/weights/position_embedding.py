"""Position embeddings resized to another image size or text length than the weights were trained with."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

# PyTorch's (and OpenCV's) bicubic kernel; Keys' original has -0.5.
_CUBIC = -0.75


def _cubic(distance: np.ndarray) -> np.ndarray:
  x = np.abs(distance)
  near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
  far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _interpolation_matrix(
  old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], reach: int
) -> Float[np.ndarray, "new old"]:
  """Returns an interpolation matrix with half-pixel centres, repeated borders and no antialiasing.

  Args:
    old: number of positions to interpolate.
    new: number of positions to compute.
    kernel: weights by distance.
    reach: of the kernel, in positions.
  """
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  matrix = np.zeros((new, old))
  for offset in range(1 - reach, reach + 1):
    index = np.floor(centres).astype(int) + offset
    np.add.at(matrix, (np.arange(new), np.clip(index, 0, old - 1)), kernel(centres - index))
  return matrix


def resize_grid(position: Float[np.ndarray, "1+l d"], grid: int) -> Float[np.ndarray, "1+m d"]:
  """Resizes the vision tower's embedding to `grid` x `grid` patches, bicubically; keeps the class token's row.

  Equal to torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
  """
  old = round((len(position) - 1) ** 0.5)
  if old == grid:
    return position
  matrix = _interpolation_matrix(old, grid, _cubic, 2)
  patches = np.asarray(position[1:], np.float64).reshape(old, old, -1)
  resized = np.einsum("yi,xj,ijd->yxd", matrix, matrix, patches, optimize=True).reshape(grid * grid, -1)
  return np.concatenate([position[:1], resized.astype(position.dtype)])


def resize_text(position: Float[np.ndarray, "s d"], length: int) -> Float[np.ndarray, "n d"]:
  """Resizes the text tower's embedding to `length` tokens.

  A shorter one is truncated, so that texts which fit keep their features. A longer one is interpolated linearly.
  """
  if length <= len(position):
    return position[:length]
  matrix = _interpolation_matrix(len(position), length, lambda x: np.maximum(1 - np.abs(x), 0), 1)
  return (matrix @ position.astype(np.float64)).astype(position.dtype)
