"""Configurations of corpora, and options of builds."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from clipvip_jax.data.engine.frame_extraction import FrameSettings, decoder_by_name
from clipvip_jax.utils.errors import UserError

_DAY = 86_400  # seconds
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]{0,99}")  # of a configuration, which is also the name of its folder


def check_name(name: str) -> str:
  """Returns the name of a configuration unchanged. Raises UserError if it is not valid."""
  if not _NAME.fullmatch(name):
    raise UserError(
      f"invalid configuration name {name!r}; use at most 100 letters, digits and _.=+-, the first a letter or digit"
    )
  return name


@dataclasses.dataclass(eq=False, kw_only=True)
class CorpusConfig(tfds.core.BuilderConfig):
  """Content of a corpus.

  Attributes:
    splits: names of the splits.
    sizes: number of clips of official splits.
    fps, frames, short_side, jpeg_quality, min_frames: see `frame_extraction.FrameSettings`.
    decoder: see `frame_extraction.decoder_by_name`.
  """

  splits: tuple[str, ...] = ("train",)
  sizes: dict[str, int] = dataclasses.field(default_factory=dict)
  fps: float = 0.0
  frames: int = 0
  short_side: int = 256
  jpeg_quality: int = 92
  min_frames: int = 2
  decoder: str = "pyav"

  NON_CONTENT_FIELDS: ClassVar[tuple[str, ...]] = ("sizes",)

  def frame_settings(self) -> FrameSettings:
    """Returns the validated frame settings.

    Raises:
      UserError: the configuration is invalid.
    """
    check_name(self.name)
    settings = FrameSettings(self.fps, self.frames, self.short_side, self.jpeg_quality, self.min_frames)
    settings.check()
    decoder_by_name(self.decoder)
    return settings

  def content_settings(self) -> dict[str, Any]:
    """Returns the fields that determine the content of records, as JSON values."""
    excluded = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | {*self.NON_CONTENT_FIELDS}
    names = sorted({field.name for field in dataclasses.fields(self)} - excluded)
    return json.loads(json.dumps({name: getattr(self, name) for name in names}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
  """Options of a build. They do not change records, except for `captions`, whose digest a corpus stores.

  Attributes:
    raw_dir: folder of the downloaded files, or video_manifest's manifest; "": DATA_DIR/downloads/manual/NAME.
    check_sizes: whether splits must have their official sizes.
    decode_timeout: limit for decoding one clip in seconds; slower clips are undecodable.
    max_skipped: accepted fraction of skipped clips in each split.
    max_missing_text: accepted fraction of clips in each split without a text in a lookup.
    clips_per_shard: clips of each shard; 0: chosen by the size of the split.
    captions: captions of clips whose annotations have none, see `text_lookup.open_lookup`; "": those of the corpus.
  """

  raw_dir: str = ""
  check_sizes: bool = True
  decode_timeout: float = 120.0
  max_skipped: float = 0.05
  max_missing_text: float = 0.5
  clips_per_shard: int = 0
  captions: str = ""

  def check(self) -> None:
    """Raises UserError for a value out of range."""
    for name in ("max_skipped", "max_missing_text"):
      if not 0 <= (value := getattr(self, name)) <= 1:
        raise UserError(f"{name}={value} is out of range; use a fraction from 0 to 1")
    if not 0 < self.decode_timeout <= _DAY:
      raise UserError(f"decode_timeout={self.decode_timeout} is out of range; use seconds above 0, at most {_DAY}")
    if self.clips_per_shard < 0:
      raise UserError(f"clips_per_shard={self.clips_per_shard} is out of range; use at least 1, or 0 for automatic")
