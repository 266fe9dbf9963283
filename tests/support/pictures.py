"""Pictures for tests of preprocessing."""

import numpy as np


def smooth_image(height, width, seed=0):
  """Returns a uint8 [H, W, 3] image without the high frequencies that JPEG loses."""
  rng = np.random.default_rng(seed)
  rows, columns = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 3, width)[None, :, None]
  waves = np.sin(rows * rng.normal(size=3) + columns * rng.normal(size=3) + rng.normal(size=3))
  return (127.5 + 127.5 * waves).astype(np.uint8)


def jpeg(frame, **options):
  import simplejpeg

  return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95, **options)
