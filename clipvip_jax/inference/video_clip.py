"""Clips: videos or time ranges of them, and their names in an index."""

import dataclasses
import math
import os
import pathlib
import re

from clipvip_jax.utils import storage

# The end of the name of a clip: @START-END in seconds, either of which may be missing.
_TIMES = re.compile(r"(.+)@(\d[\d.e+]*)?-(\d[\d.e+]*)?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class VideoClip:
  """A video, or a part of it.

  Attributes:
    path: of a video file, an image or a folder of frames.
    start: seconds; None: start of the video.
    end: seconds; None: end of the video.
  """

  path: str
  start: float | None = None
  end: float | None = None

  @property
  def name(self) -> str:
    """The path, followed by @START-END if either is set: the name of the clip in an index."""
    # Without ./ and //, as `build_index` names videos.
    path = self.path if storage.is_remote(self.path) else os.fspath(pathlib.Path(self.path))
    if self.start is None and self.end is None:
      return f"{path}@-" if _TIMES.fullmatch(path) else path  # a path that looks like the name of a part
    return f"{path}@{self.start or 0:.12g}-{'' if self.end is None else f'{self.end:.12g}'}"

  @classmethod
  def from_name(cls, name: str) -> "VideoClip":
    """Returns the clip that has a name; any text is the name of a clip."""
    if match := _TIMES.fullmatch(name):
      try:
        times = [None if text is None else float(text) for text in match.groups()[1:]]
      except ValueError:  # digits that are no number
        return cls(name)
      if math.inf not in times:  # as 1e999 is
        return cls(match[1], *times)
    return cls(name)
