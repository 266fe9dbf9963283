"""Runs of zeros in coded frames."""

import pytest

from clipvip_jax.input_pipeline.zero_runs import has_zero_run, is_dense

PICTURE, HOLE = b"\5" * 99, bytes(400)


@pytest.mark.parametrize(
  ("data", "codec", "expected"),
  [
    (PICTURE + HOLE + PICTURE, "vp9", True),
    (PICTURE + HOLE, "vp9", True),
    (HOLE + PICTURE, "h264", True),
    (PICTURE + HOLE, "h264", False),  # stuffing at the end
    (PICTURE + HOLE + b"\1" + PICTURE, "mpeg2video", False),  # stuffing before a start code
    (PICTURE + bytes(200) + PICTURE, "vp9", False),
    (bytes(20), "h264", True),
    (HOLE, "h264", True),
    (PICTURE, "vp9", False),
    (b"", "vp9", False),
    (b"\0", "wmv3", False),  # a skipped picture
  ],
)
def test_holes_are_told_from_stuffing(data, codec, expected):
  assert has_zero_run(data, codec) == expected


def test_codecs_that_store_zeros_are_not_dense():
  assert is_dense("h264") and is_dense("wmv2")
  assert not any(is_dense(codec) for codec in ("rawvideo", "png", "qtrle", "ffv1", "dnxhd", "dvvideo", "gif"))


@pytest.mark.parametrize("begin", [0, 1, 255, 256, 300, 511, 512])
def test_a_run_is_found_wherever_it_begins(begin):
  for length, expected in ((255, False), (256, True), (257, True)):
    assert has_zero_run(b"\5" * begin + bytes(length) + b"\5" * 700, "vp9") == expected
