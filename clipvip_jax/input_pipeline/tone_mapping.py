"""Tone mapping of HDR pictures (PQ and HLG, ITU-R BT.2100) to SDR (BT.709).

The curve is the "mobius" curve of FFmpeg's filter `tonemap`, applied to the largest channel, so that hues are kept:
linear up to 61 cd/m2, then compressed so that PEAK is white. HDR's reference white, as of paper, becomes 217 of 255.
FFmpeg computes the same with

    zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:desat=0:peak=4.926,zscale=t=bt709:m=gbr:r=pc

but PyAV's FFmpeg has no zscale.
"""

import functools

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

# Light of SDR's white and of the brightest HDR colour, in cd/m2 (ITU-R BT.2408; most HDR is mastered for 1000).
REFERENCE_WHITE, PEAK = 203.0, 1000.0
_TRANSFERS = {16: "pq", 18: "hlg"}  # transfer characteristics by ITU-T H.273
_KNEE = 0.3  # times REFERENCE_WHITE
_PIXELS = 2**16  # converted at a time, in the cache rather than in memory

# Linear BT.2020 to linear BT.709 (ITU-R BT.2087).
_BT2020_TO_BT709 = np.array(
  ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)), np.float32
)


def hdr_transfer(color_trc: int) -> str | None:
  """Returns "pq" or "hlg" for HDR, None for SDR; `color_trc`: transfer characteristics by ITU-T H.273."""
  return _TRANSFERS.get(color_trc)


def tone_map(picture: UInt16[np.ndarray, "h w 3"], transfer: str) -> UInt8[np.ndarray, "h w 3"]:
  """Converts an HDR picture to SDR.

  Args:
    picture: BT.2020 RGB of full range, encoded by `transfer`.
    transfer: "pq" or "hlg".

  Returns:
    BT.709 RGB.
  """
  pixels = picture.reshape(-1, 3)
  result = np.empty(pixels.shape, np.uint8)
  for begin in range(0, len(pixels), _PIXELS):
    chunk = slice(begin, begin + _PIXELS)
    result[chunk] = _tone_map_channels(pixels[chunk].T, transfer).T
  return result.reshape(picture.shape)


def _tone_map_channels(channels: UInt16[np.ndarray, "3 n"], transfer: str) -> UInt8[np.ndarray, "3 n"]:
  light = _light_table(transfer)[channels]
  light = _BT2020_TO_BT709 @ light
  brightest = np.maximum(light.max(axis=0), np.float32(1e-6))
  light *= _compress(brightest) / brightest
  np.clip(light, 0, 1, out=light)
  return _code_table()[(light * np.float32(65535) + np.float32(0.5)).astype(np.uint16)]


@functools.cache
def _light_table(transfer: str) -> Float32[np.ndarray, "65536"]:
  """Returns the light of each code on a display, relative to REFERENCE_WHITE; for HLG, one of 1000 cd/m2."""
  code = np.arange(65536) / 65535
  if transfer == "pq":
    power = code ** (1 / 78.84375)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    return (10000 / REFERENCE_WHITE * light).astype(np.float32)
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
  return (1000 / REFERENCE_WHITE * scene**1.2).astype(np.float32)


def _compress(light: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
  """Maps 0 to PEAK, relative to REFERENCE_WHITE, to 0 to 1: a hyperbola that continues the line below the knee."""
  peak, knee = PEAK / REFERENCE_WHITE, _KNEE
  a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
  b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
  slope = (b**2 + 2 * b * knee + knee**2) / (b - a)
  return np.where(light <= knee, light, np.float32(slope) * (light + np.float32(a)) / (light + np.float32(b)))


@functools.cache
def _code_table() -> UInt8[np.ndarray, "65536"]:
  """Returns the code of light from 0 to 1 on a display of SDR (ITU-R BT.1886)."""
  return (255 * (np.arange(65536) / 65535) ** (1 / 2.4) + 0.5).astype(np.uint8)
