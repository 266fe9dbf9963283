"""JPEG decoding that rejects corrupt files.

Runs in worker processes: does not import JAX.
"""

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.utils.errors import UserError

# Twice a frame of 8K video. A corrupt header can claim 12 GB of pixels, all of them allocated before decoding fails.
MAX_PIXELS = 2**26


def decode_jpeg(data: bytes, name: str = "a frame", fast_side: int = 0) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes a JPEG image to RGB; grey images get three equal channels.

  Corruption that libjpeg-turbo only warns about (a missing end, an invalid marker, extra bits) raises an error instead
  of returning a half-grey frame. JPEG has no checksum, though: changed bytes that form valid codes go undetected.

  Args:
    data: content of a JPEG file.
    name: of the image, for error messages ("frame 3 of video7").
    fast_side: 0 decodes exactly. Otherwise uses libjpeg's fast DCT and upsampling, and decodes an image whose sides
      are all at least twice `fast_side` at a fraction of its size, with sides of at least `fast_side`.

  Raises:
    UserError: `data` is not a complete JPEG, or its header claims more than MAX_PIXELS.
  """
  import simplejpeg

  try:
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
      raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS} that a frame may have")
    if not fast_side:
      return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    limits = {"min_height": fast_side, "min_width": fast_side, "min_factor": 2}
    return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, fastdct=True, fastupsample=True, **limits)
  except (TypeError, ValueError) as error:
    size = f"{len(data)} bytes" if isinstance(data, bytes | bytearray | memoryview) else type(data).__name__
    raise UserError(f"{name} ({size}) is not a valid JPEG: {error}; store the frame again or remove it") from error
