"""What the corpora share: the record, its JPEG frames, and the account of clips that could not be used."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from clipvip_jax.errors import UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

BAD_VIDEOS_FILE = "bad_videos.txt"
_NAMED = 5  # bad clips that an error message names itself


def record_features() -> tfds.features.FeaturesDict:
  """One clip. Frames are stored as JPEG bytes and not as images, so that a reader decodes only those it draws.

  id: unique in its split. frames: all frames of the clip. num_frames: their number. subtitle: what is said, "" for
  none. caption: what the middle frame, int(num_frames / 2), shows; "" where missing. description: the query.
  twin: id of the clip of the same split that differs in motion or order alone, "" for none.
  """
  import tensorflow_datasets as tfds  # here, so that worker processes can encode frames without it

  text = tfds.features.Text
  return tfds.features.FeaturesDict(
    {
      "id": text(),
      "frames": tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)),
      "num_frames": np.int32,
      "subtitle": text(),
      "caption": text(),
      "description": text(),
      "twin": text(),
    }
  )


def encode_jpegs(frames: Iterable[np.ndarray], quality: int) -> list[bytes]:
  """JPEG of each uint8 RGB [H, W, 3] frame. quality: 1 to 100; chroma is stored at half size, as in the video."""
  import simplejpeg

  return [
    simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorspace="RGB", colorsubsampling="420")
    for frame in frames
  ]


@dataclasses.dataclass
class _Count:
  expected: int
  found: int = 0
  bad: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> reason


class Coverage:
  """How many clips of each split were expected, found and bad, and why: nothing is dropped in silence.

  max_bad_share: the share of bad clips in a split, 0 to 1, above which `check` refuses the split.
  """

  def __init__(self, max_bad_share: float = 0.05):
    if not 0 <= max_bad_share <= 1:
      raise UserError(f"max_bad_share is {max_bad_share}: a share lies between 0 and 1")
    self.max_bad_share = max_bad_share
    self._splits: dict[str, _Count] = {}

  def expect(self, split: str, clips: int) -> None:
    """Starts the account of a split of `clips` clips."""
    self._splits[split] = _Count(expected=clips)

  def found(self, split: str) -> None:
    """Counts a good clip."""
    self._splits[split].found += 1

  def bad(self, split: str, name: str, reason: str) -> None:
    """Notes a clip that cannot be used; name: its file or id, reason: in plain words."""
    self._splits[split].bad[name] = reason

  def check(self, split: str, folder: pathlib.Path) -> None:
    """Raises UserError where too many clips of the split are bad; the full list is then left in `folder`."""
    count = self._splits[split]
    if len(count.bad) <= self.max_bad_share * count.expected:
      return
    where = self.write(folder)
    named = "; ".join(f"{name}: {' '.join(reason.split())}" for name, reason in list(count.bad.items())[:_NAMED])
    raise UserError(
      f"split {split!r}: {len(count.bad)} of {count.expected} clips are bad, at most {self.max_bad_share:.1%} may be."
      f" {where} names all of them, first {named}. Mend or delete these files and build again, or build with a larger"
      " max_bad_share in the builder's config (1.0 accepts any number)"
    )

  def write(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes bad_videos.txt into `folder`, one line "SPLIT<tab>NAME<tab>REASON" a bad clip; returns its path."""
    path = pathlib.Path(folder) / BAD_VIDEOS_FILE
    lines = [f"# {split}: {c.found} of {c.expected} clips, {len(c.bad)} bad\n" for split, c in self._splits.items()]
    for split, count in self._splits.items():
      lines += [f"{split}\t{name}\t{' '.join(reason.split())}\n" for name, reason in count.bad.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path

  def as_metadata(self) -> dict[str, Any]:
    """{split: {"expected", "found", "bad": {name: reason}}}, for the data set's metadata."""
    return {
      split: {"expected": count.expected, "found": count.found, "bad": dict(count.bad)}
      for split, count in self._splits.items()
    }
