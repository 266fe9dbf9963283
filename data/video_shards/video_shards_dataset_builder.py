"""video_shards: videos with their texts in tar files, as WebDataset, video2dataset and clip pipelines write them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine import bad_lines, tar_files
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item, check_id, peek
from clipvip_jax.data.engine.tar_files import Span
from clipvip_jax.data.video_shards.sample_fields import Sample, parse_sources, parse_span, read_table
from clipvip_jax.data.video_shards.shard_patterns import find_shards, is_pattern
from clipvip_jax.input_pipeline.read_media import VIDEO_SUFFIXES
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError

_PROBED_CLIPS = 1000
_TEXTS = ("description", "subtitle", "caption")


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoShardsConfig(CorpusConfig):
  """Configuration of tar files of videos.

  Attributes:
    shards, validation_shards, test_shards: tar files of each split below the raw files; see `find_shards`.
    description_from, subtitle_from, caption_from: sources of texts; see `sample_fields.parse_sources`.
    spans_from: json:FIELD or parquet:COLUMN of a list of spans, if a video holds several clips; "": entire videos.
  """

  shards: str = ""
  validation_shards: str = ""
  test_shards: str = ""
  description_from: str = "txt,json:caption"
  subtitle_from: str = ""
  caption_from: str = ""
  spans_from: str = ""
  min_frames: int = 1
  splits: tuple[str, ...] = ()


class Builder(CorpusBuilder):
  """Videos of tar files in WebDataset layout: KEY.mp4, or another video format, next to KEY.txt, KEY.json or both.

  Keys end at the first dot of a name, and are in NFC. The files of a key are adjacent. Videos are read where they are
  in the tar file. Ids are TAR/KEY, followed by @START-END for spans. A key without a video counts as missing, one with
  corrupt texts or spans as undecodable. Attributes of macOS (._NAME) and files with other extensions are ignored.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    VideoShardsConfig(name="default", description="Three frames a second, as HD-VILA's.", fps=3),
    VideoShardsConfig(name="all_frames", description="Every frame.", short_side=0),
  ]

  @property
  def raw_dir(self) -> epath.Path:
    """Folder of the tar files. Raises UserError for a pattern."""
    parts = self.options.raw_dir.split("/")
    pattern = next((n for n, part in enumerate(parts) if is_pattern(part) or part.endswith(".tar")), None)
    if pattern is not None and not storage.absolute(self.options.raw_dir).is_dir():
      folder, shards = "/".join(parts[:pattern]) or ".", "/".join(parts[pattern:])
      raise UserError(
        f"--raw_dir={self.options.raw_dir} is not a folder; set --raw_dir={folder} and --shards={shards!r}"
      )
    return super().raw_dir

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or corrupt tar files, and for texts that no sample has."""
    config = self.builder_config
    assert isinstance(config, VideoShardsConfig)
    reader = _Reader(config)
    shards = {"train": config.shards, "validation": config.validation_shards, "test": config.test_shards}
    for split, pattern in shards.items():
      if pattern or split == "train":
        tars = find_shards(raw_dir, pattern)
        items = itertools.chain.from_iterable(reader.items(tar, raw_dir, split) for tar in tars)
        yield from reader.check_sources(items, f"{raw_dir}, split {split!r}")


class _Reader:
  """Reads samples by the sources of a configuration."""

  def __init__(self, config: VideoShardsConfig):
    self._sources = {field: parse_sources(getattr(config, f"{field}_from"), f"{field}_from") for field in _TEXTS}
    spans = parse_sources(config.spans_from, "spans_from")
    if len(spans) > 1 or any(source.kind not in ("json", "parquet") for source in spans):
      raise UserError(f"--spans_from={config.spans_from} must be one of json:FIELD and parquet:COLUMN")
    self._spans = spans[0] if spans else None
    sources = [*itertools.chain.from_iterable(self._sources.values()), *spans]
    if any(source.kind == "span" for source in sources) and not spans:
      raise UserError("span:FIELD is a field of spans; set --spans_from=json:FIELD, or name another source")
    files = [f".{source.name}" for source in sources if source.kind == "file"]
    self._columns = {source.name for source in sources if source.kind == "parquet"}
    self._suffixes = (*VIDEO_SUFFIXES, ".json", *files)
    self._default = config.description_from == VideoShardsConfig.description_from
    self._noted: list[str] = []

  def items(self, path: epath.Path, raw_dir: epath.Path, split: str) -> Iterator[Item]:
    """Yields the clips of a tar file in order."""
    name = os.fspath(path.relative_to(raw_dir)).removesuffix(".tar")
    table = read_table(path.with_suffix(".parquet"), self._columns)
    for group in tar_files.iterate_groups(path, self._suffixes):
      key = group.key
      is_sample = group.members or any(group.unused.values())  # a link or an empty file is one, too
      clip_id = bad_lines.attempt(check_id, f"{name}/{key}", f"{path}, {key!r}") if is_sample else None
      if clip_id is None:
        continue
      item = Item(id=clip_id, split=split, video=f"{path}#{key}")  # does not exist, and counts as missing
      try:
        members = _by_extension(key, group.members)
        if suffix := _video_suffix(members):
          offset, size = members[suffix[1:]]
          item = dataclasses.replace(item, video=os.fspath(path), offset=offset, size=size, suffix=suffix)
        else:
          item = dataclasses.replace(item, missing_video=group.describe_unused())
        sample = Sample(group.file, members, table.get(posixpath.basename(key), {}))
        self._note_sources(sample, group.unused)
        entries = sample.spans(self._spans)
      except UserError as error:
        yield dataclasses.replace(item, error=f"{key!r}, {error}")
        continue
      for number, entry in enumerate(entries, 1):
        yield self._clip(item, sample, entry, f"span {number}")

  def _clip(self, item: Item, sample: Sample, entry: Any, where: str) -> Item:
    name = item.id
    try:
      fields, start, end = parse_span(entry, where)
      if self._spans:
        name = f"{item.id}@{_seconds(start)}-{_seconds(end)}"
      texts = {field: sample.texts(sources, fields) for field, sources in self._sources.items()}
    except UserError as error:
      return dataclasses.replace(item, id=f"{name} ({where})" if self._spans else name, error=f"{name!r}, {error}")
    return dataclasses.replace(
      item,
      id=name,
      start=start,
      end=end,
      descriptions=texts["description"],
      subtitle=" ".join(texts["subtitle"]),
      caption=" ".join(texts["caption"]),
      missing_texts=tuple(field for field in _TEXTS[1:] if self._sources[field] and not texts[field]),
    )

  def _note_sources(self, sample: Sample, unused: dict[str, str]) -> None:
    """Keeps the sources of the first sample, and its unused files with their reasons, for error messages."""
    if not self._noted:
      names = [name for name in sample.members if f".{name}" not in VIDEO_SUFFIXES and name != "json"]
      with contextlib.suppress(UserError):  # of a source that may not be used
        names += [f"json:{name}" for name in sample.json_fields]
      self._noted = [*names, *(f"parquet:{name}" for name in sample.row)]
      self._noted += [f"{name!r} ({reason})" for name, reason in unused.items() if reason]

  def check_sources(self, items: Iterator[Item], where: str) -> Iterator[Item]:
    """Yields the items. Raises UserError if none of the first has a text of a source that was asked for."""
    first, items = peek(items, _PROBED_CLIPS)
    clips = [item for item in first if not item.error]
    texts = {"description": any(item.descriptions for item in clips)}
    texts |= {field: any(getattr(item, field) for item in clips) for field in ("subtitle", "caption")}
    asked = [field for field in _TEXTS if self._sources[field] and not (field == "description" and self._default)]
    lacking = [field for field in asked if not texts[field]] or ([] if any(texts.values()) else ["description"])
    if clips and lacking:
      sources = ",".join(map(str, self._sources[lacking[0]]))
      raise UserError(
        f"{where}: none of the first {len(clips)} clips has a {lacking[0]} in {sources or 'any source'}; set"
        f" --{lacking[0]}_from to one of those that the first sample has: {', '.join(self._noted)}"
      )
    yield from items


def _by_extension(key: str, group: dict[str, Span]) -> dict[str, Span]:
  """Returns {extension in lower case: member}: what follows the first dot is the extension."""
  members: dict[str, Span] = {}
  for name, span in group.items():
    extension = name[len(key) + 1 :].lower()
    if extension in members:
      raise UserError(f"{name!r}: another file differs only in upper and lower case; keep one of them")
    members[extension] = span
  return members


def _video_suffix(members: dict[str, Span]) -> str:
  """Returns the suffix of a sample's video; "" if it has none."""
  videos = [f".{extension}" for extension in members if f".{extension}" in VIDEO_SUFFIXES]
  if len(videos) > 1:
    raise UserError(f"several videos ({', '.join(videos)}); keep one of them")
  return videos[0] if videos else ""


def _seconds(time: float | None) -> str:
  return "" if time is None else f"{round(time, 3):.12g}"
