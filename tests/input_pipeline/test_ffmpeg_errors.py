"""Errors of FFmpeg: raised and logged."""

import logging

import av

from clipvip_jax.input_pipeline.ffmpeg_errors import enable_log, error_reason, take_error


def test_reasons_have_no_path_and_are_never_empty():
  assert error_reason(av.error.InvalidDataError(1, "bad element", "x.mp4")) == "bad element"
  assert error_reason(ValueError("x")) == "x" and error_reason(ValueError()) == "ValueError"


def test_errors_are_captured_and_others_are_dropped_as_before(capfd):
  enable_log()
  with av.logging.Capture() as messages:
    av.logging.log(av.logging.WARNING, "h264", "a warning")
    assert take_error(messages) == ""
    for harmless in ("SEI type 5 size 90 truncated at 80", "mmco: unref short failure"):
      av.logging.log(av.logging.ERROR, "h264", harmless)
    assert take_error(messages) == ""
    av.logging.log(av.logging.ERROR, "h264", "bad block\n")
    av.logging.log(av.logging.ERROR, "h264", "worse block\n")
  assert take_error(messages) == "h264: bad block"
  av.logging.log(av.logging.ERROR, "h264", "elsewhere\n")
  assert not messages and not logging.getLogger("libav").propagate and not any(capfd.readouterr())
