"""Runs of zeros in coded frames: holes of a file, as of an incomplete download, that some decoders do not report."""

_LENGTH = 256
_RUN = bytes(_LENGTH)
# Codecs whose entropy coding never yields a run of zeros (uncompressed, palette and zlib codecs do).
_STUFFED = frozenset(
  {"h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "cavs"}
)  # zeros after a picture
_DENSE = _STUFFED | {
  *("av1", "vp3", "vp6", "vp6a", "vp6f", "vp8", "vp9", "theora", "flv1", "h263", "h263p", "svq1", "svq3"),
  *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "rv10", "rv20", "rv30", "rv40"),
}


def is_dense(codec: str) -> bool:
  """Returns whether a codec, by FFmpeg's name, never codes pictures as runs of zeros."""
  return codec in _DENSE


def has_zero_run(data: bytes, codec: str) -> bool:
  """Returns whether a coded frame of a dense codec holds a run of zeros that is no stuffing, or only zeros."""
  # A run contains one of every 256th byte: few frames have a zero there.
  begin = data.find(_RUN) if 0 in data[_LENGTH - 1 :: _LENGTH] else -1
  if begin < 0:
    return len(data) > 1 and not data.rstrip(b"\0")  # one byte is a skipped picture of WMV
  rest = data[begin:].lstrip(b"\0")
  if rest:
    return rest[0] != 1  # a start code may follow any number of zeros
  return not begin or codec not in _STUFFED
