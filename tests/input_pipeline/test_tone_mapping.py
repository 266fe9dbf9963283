"""Tone mapping of HDR: FFmpeg's results."""

import numpy as np
import pytest

from clipvip_jax.input_pipeline.tone_mapping import tone_map

# ((luma, chroma blue, chroma red) of 10 bits, RGB), by the ffmpeg command in the docstring of tone_mapping applied to
# `color,format=yuv420p10le,geq=lum=Y:cb=CB:cr=CR,setparams=color_primaries=bt2020:color_trc=TRANSFER:
# colorspace=bt2020nc:range=tv`; ffmpeg 9.0.2 with zimg.
FFMPEG = {
  "pq": [
    ((64, 512, 512), (0, 0, 0)), ((195, 512, 512), (28, 28, 28)), ((327, 512, 512), (73, 73, 73)),
    ((397, 512, 512), (108, 108, 108)), ((462, 512, 512), (151, 151, 151)), ((509, 512, 512), (184, 184, 184)),
    ((573, 512, 512), (217, 217, 217)), ((636, 512, 512), (239, 239, 239)), ((723, 512, 512), (255, 255, 255)),
    ((940, 512, 512), (255, 255, 255)), ((400, 400, 600), (215, 48, 0)), ((450, 600, 420), (0, 131, 234)),
    ((350, 560, 480), (0, 90, 139)), ((600, 480, 560), (252, 132, 117)), ((420, 620, 700), (255, 0, 157)),
  ],
  "hlg": [
    ((64, 512, 512), (0, 0, 0)), ((195, 512, 512), (43, 43, 43)), ((327, 512, 512), (86, 86, 86)),
    ((397, 512, 512), (109, 109, 109)), ((462, 512, 512), (130, 130, 130)), ((509, 512, 512), (145, 145, 145)),
    ((573, 512, 512), (169, 169, 169)), ((636, 512, 512), (191, 191, 191)), ((723, 512, 512), (218, 218, 218)),
    ((940, 512, 512), (255, 255, 255)), ((400, 400, 600), (174, 89, 0)), ((450, 600, 420), (0, 137, 186)),
    ((350, 560, 480), (57, 98, 125)), ((600, 480, 560), (213, 143, 134)), ((420, 620, 700), (226, 0, 158)),
  ],
}  # fmt: skip


def bt2020_rgb(luma, blue, red):
  """Returns the 16-bit RGB of a 10-bit colour of BT.2020 (non-constant luminance, studio range)."""
  y, pb, pr = (luma - 64) / 876, (blue - 512) / 896, (red - 512) / 896
  rgb = y + 1.4746 * pr, y - 0.16455 * pb - 0.57135 * pr, y + 1.8814 * pb
  return np.round(65535 * np.clip(rgb, 0, 1)).astype(np.uint16)


@pytest.mark.parametrize("transfer", FFMPEG)
def test_colours_equal_those_of_ffmpeg(transfer):
  picture = np.array([[bt2020_rgb(*code) for code, _ in FFMPEG[transfer]]])
  expected = np.array([[rgb for _, rgb in FFMPEG[transfer]]])
  np.testing.assert_allclose(tone_map(picture, transfer).astype(int), expected, atol=1)


@pytest.mark.parametrize("transfer", FFMPEG)
def test_greys_stay_grey_and_in_order(transfer):
  ramp = np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None].repeat(3, 2)
  mapped = tone_map(ramp, transfer)[0].astype(int)
  assert (mapped == mapped[:, :1]).all() and (np.diff(mapped[:, 0]) >= 0).all()
  assert mapped[0, 0] == 0 and mapped[-1, 0] == 255


def test_pictures_are_mapped_pixel_by_pixel():
  picture = np.random.default_rng(0).integers(0, 65536, (300, 400, 3), np.uint16)
  expected = np.stack([tone_map(row[None], "pq")[0] for row in picture])
  np.testing.assert_array_equal(tone_map(picture, "pq"), expected)
