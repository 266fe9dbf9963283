"""Turns an item into a serialised record, or into a skipped clip with its reason."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from clipvip_jax.data.engine import build_files, records, text_lookup
from clipvip_jax.data.engine.coverage import SkippedClip, missing_text_key
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item
from clipvip_jax.input_pipeline import remote_video
from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, file_error_reason
from clipvip_jax.utils import storage, transfers

_BLOCK = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class RecordSpec:
  """How items become records.

  Attributes:
    frame_settings: how frames are sampled, resized and encoded.
    decoder: a name for `frame_extraction.decoder_by_name`.
    decode_timeout: limit for decoding one clip in seconds.
    lookups: {"subtitle" or "caption": path for `text_lookup.open_lookup`}.
    extra: names of text fields that the corpus adds.
  """

  frame_settings: FrameSettings
  decoder: str
  decode_timeout: float
  lookups: dict[str, str]
  extra: tuple[str, ...] = ()

  def decode_process(self) -> DecodeProcess:
    """Returns a new decoding process."""
    return DecodeProcess(self.frame_settings, self.decoder, self.decode_timeout)


def clip_record(
  item: Item, spec: RecordSpec, decoder: DecodeProcess, counts: Counter[str]
) -> dict[str, Any] | SkippedClip:
  """Decodes a clip and looks up its texts.

  Args:
    item: the clip.
    spec: how it becomes a record.
    decoder: the decoding process.
    counts: counts of clips by coverage.MISSING_TEXT_KEYS and by notes on their files, updated for this clip.

  Returns:
    A record of `records.record_features`, or why the clip is skipped.
  """
  if item.error:
    return SkippedClip(item.id, "undecodable", item.error)
  texts = {"subtitle": item.subtitle, "caption": item.caption}
  for field, path in spec.lookups.items():
    texts[field] = texts[field] or text_lookup.find_text(text_lookup.open_shared(path), item.id, item.split) or ""
  for field in {*spec.lookups, *item.missing_texts}:
    counts[missing_text_key(field)] += not texts[field]
  if not any((*texts.values(), *item.descriptions)):
    return SkippedClip(item.id, "without_text", "no subtitle, caption or description")
  frames = read_frames(item, decoder, counts)
  if isinstance(frames, SkippedClip):
    return frames
  return {
    "id": item.id,
    "frames": frames,
    "num_frames": len(frames),
    **texts,
    "description": list(item.descriptions),
    **{name: item.extra.get(name, "") for name in spec.extra},
  }


def skipped_undecoded(item: Item) -> SkippedClip | None:
  """Returns why a clip is skipped without decoding it: corrupt annotations, or no video; None if it is decoded."""
  if item.error:
    return SkippedClip(item.id, "undecodable", item.error)
  return None if video_exists(item) else SkippedClip(item.id, "missing", item.missing_video or item.video)


def video_exists(item: Item) -> bool:
  """Returns whether the video of a clip exists."""
  return not item.missing_video and transfers.exists(build_files.find_video(item.video))


def serialize_record(record: dict[str, Any], extra: tuple[str, ...]) -> bytes:
  """Serialises a record as a deterministic tf.train.Example.

  Args:
    record: a record of `records.record_features`.
    extra: names of text fields that the corpus adds.
  """
  features, serializer = _serializer(extra)
  example = serializer.get_tf_example(features.encode_example(record))
  return example.SerializeToString(deterministic=True)  # the order of a protobuf map differs between processes


@functools.cache
def _serializer(extra: tuple[str, ...]) -> Any:
  from tensorflow_datasets.core import example_serializer

  features = records.record_features(extra)
  return features, example_serializer.ExampleSerializer(features.get_serialized_info())


def read_frames(item: Item, decoder: DecodeProcess, counts: Counter[str]) -> list[bytes] | SkippedClip:
  """Decodes a clip.

  Args:
    item: the clip, of a local or a remote video.
    decoder: the decoding process.
    counts: counts of notes on files, updated for this clip.

  Returns:
    Its JPEG frames, or why it is skipped.
  """
  if item.missing_video:
    return SkippedClip(item.id, "missing", item.missing_video)
  try:
    with _local_file(item) as (path, offset, size):
      return decoder.read_frames(path, item.start, item.end, offset, size, counts)
  except FileNotFoundError:
    return SkippedClip(item.id, "missing", NO_SUCH_FILE)
  except OSError as error:
    return SkippedClip(item.id, "undecodable", f"cannot be read ({file_error_reason(error)})")


@contextlib.contextmanager
def _local_file(item: Item) -> Iterator[tuple[str, int, int]]:
  """Yields (local path, offset, size) of a video or image; size 0: all of the file.

  Downloads remote ones, and of a remote tar file only the member. Copies a video in a local tar file into memory.

  Raises:
    OSError: it does not exist, or is unreadable.
  """
  path = build_files.find_video(item.video)
  if not item.suffix and not storage.is_remote(path):
    pathlib.Path(path).stat()
    yield path, item.offset, item.size
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, f"video{item.suffix or pathlib.PurePosixPath(path).suffix}")
    if storage.is_remote(path):
      remote_video.fetch(path, copy, item.offset, item.size)
      yield os.fspath(copy), 0, 0 if item.suffix else item.size
      return
    with pathlib.Path(path).open("rb") as source, _create_in_memory(copy) as target:
      source.seek(item.offset)
      _copy_bytes(source, target, item.size or sys.maxsize)
      target.flush()
      yield os.fspath(copy), 0, 0 if item.suffix else item.size


def _create_in_memory(path: pathlib.Path) -> BinaryIO:
  """Creates a file in memory with a link to it at `path`; a file on disk where the system has no such files."""
  if not hasattr(os, "memfd_create"):  # macOS
    return path.open("wb")
  file = os.fdopen(os.memfd_create("video"), "wb")
  path.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
  return file


def _copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
  """Copies up to `count` bytes; fewer at the end of the file, which the decoder reports as truncated."""
  while count > 0 and (block := source.read(min(count, _BLOCK))):
    target.write(block)
    count -= len(block)
