"""Turns an item into a serialised record, or into a skipped clip with its reason."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipvip_jax.data.engine import records, storage, text_lookup
from clipvip_jax.data.engine.coverage import SkippedClip, missing_text_key
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item
from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE


@dataclasses.dataclass(frozen=True)
class RecordSpec:
  """How items become records.

  Attributes:
    frame_settings: How frames are sampled, resized and encoded.
    decoder: A name for `frame_extraction.decoder_by_name`.
    decode_timeout: Limit for decoding one clip in seconds.
    lookups: {"subtitle" or "caption": path for `text_lookup.open_lookup`}.
    extra: Names of text fields that the corpus adds.
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
    item: The clip.
    spec: How it becomes a record.
    decoder: The decoding process.
    counts: Counts of clips by coverage.MISSING_TEXT_KEYS and by notes on their files, updated for this clip.

  Returns:
    A record of `records.record_features`, or why the clip is skipped.
  """
  texts = {"subtitle": item.subtitle, "caption": item.caption}
  for field, path in spec.lookups.items():
    texts[field] = texts[field] or text_lookup.find_text(text_lookup.open_shared(path), item.id) or ""
  for field in {*spec.lookups, *item.missing_texts}:
    counts[missing_text_key(field)] += not texts[field]
  if not any((*texts.values(), *item.descriptions)):
    return SkippedClip(item.id, "without_text", "no subtitle, caption or description")
  frames = _read_frames(item, decoder, counts)
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


def video_exists(item: Item) -> bool:
  """Returns whether the video of a clip exists."""
  return epath.Path(storage.find_video(item.video)).exists()


def serialize_record(record: dict[str, Any], extra: tuple[str, ...]) -> bytes:
  """Serialises a record as a deterministic tf.train.Example.

  Args:
    record: A record of `records.record_features`.
    extra: Names of text fields that the corpus adds.
  """
  features, serializer = _serializer(extra)
  example = serializer.get_tf_example(features.encode_example(record))
  return example.SerializeToString(deterministic=True)  # the order of a protobuf map differs between processes


@functools.cache
def _serializer(extra: tuple[str, ...]) -> Any:
  from tensorflow_datasets.core import example_serializer

  features = records.record_features(extra)
  return features, example_serializer.ExampleSerializer(features.get_serialized_info())


def _read_frames(item: Item, decoder: DecodeProcess, counts: Counter[str]) -> list[bytes] | SkippedClip:
  try:
    with _local_copy(item) as (path, offset):
      return decoder.read_frames(path, item.start, item.end, offset, item.size, counts)
  except FileNotFoundError:
    return SkippedClip(item.id, "missing", NO_SUCH_FILE)
  except OSError as error:
    return SkippedClip(item.id, "undecodable", f"cannot be read ({error.strerror or error})")


@contextlib.contextmanager
def _local_copy(item: Item) -> Iterator[tuple[str, int]]:
  """Yields (local path, offset) of a video; downloads a remote one. Raises OSError if it does not exist."""
  if not storage.is_remote(item.video):
    path = storage.find_video(item.video)
    pathlib.Path(path).stat()
    yield path, item.offset
    return
  with tempfile.TemporaryDirectory() as folder, epath.Path(item.video).open("rb") as remote:
    copy = pathlib.Path(folder) / epath.Path(item.video).name
    with copy.open("wb") as target:
      if item.size:
        remote.seek(item.offset)
        target.write(remote.read(item.size))
      else:
        shutil.copyfileobj(remote, target)
    yield os.fspath(copy), 0
