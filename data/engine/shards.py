"""One shard of a corpus: decode its clips, write their records, and say what was left out. Done twice, it is done once.

NAME.array_record holds the records, NAME.json the account. The account is written last: a shard without one was not
finished. Both have their names only when they are whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath

from clipvip_jax.input_pipeline.video_decoder import NO_SUCH_FILE
from data.engine import records, storage, text_lookup
from data.engine.coverage import LACKING, SkippedClip
from data.engine.decode_process import DecodeProcess
from data.engine.frame_extraction import FrameSettings
from data.engine.items import Item
from data.engine.plan import Plan, Shard


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How items become records. lookups: {"subtitle" | "caption": file for open_lookup}. extra: see record_features."""

  stored: FrameSettings
  decoder: str
  seconds: float
  lookups: dict[str, str]
  extra: tuple[str, ...] = ()

  def decoding(self) -> DecodeProcess:
    """A new decoding process."""
    return DecodeProcess(self.stored, self.decoder, self.seconds)


@dataclasses.dataclass(frozen=True)
class Account:
  """What became of a shard's items. digest: of all that they say and of the recipe; files: of the videos' states."""

  digest: str
  records: int
  bytes: int
  lacking: dict[str, int]
  left_out: list[SkippedClip]
  files: str

  @classmethod
  def read(cls, path: epath.Path) -> Account | None:
    """None where there is none."""
    try:
      fields = json.loads(path.read_text(encoding="utf-8"))
      return cls(**{**fields, "left_out": [SkippedClip(**clip) for clip in fields["left_out"]]})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
      return None

  def write(self, path: epath.Path) -> None:
    """Whole or not at all."""
    with storage.atomic_path(path) as temporary:
      temporary.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def is_written(shard: Shard, folder: epath.Path, digest: str) -> bool:
  """Whether the shard stands in `folder`, made from these items by this recipe."""
  account = Account.read(folder / f"{shard.name}.json")
  return account is not None and account.digest == digest and (folder / f"{shard.name}.array_record").exists()


def is_done(shard: Shard, plan: Plan, folder: epath.Path, digest: str) -> bool:
  """Whether it is written, no video was changed since, and none is worth another try."""
  account = Account.read(folder / f"{shard.name}.json")
  if account is None or not is_written(shard, folder, digest):
    return False
  return not any(clip.again for clip in account.left_out) and account.files == _files(shard, plan)


def _files(shard: Shard, plan: Plan) -> str:
  """A digest of the states of the shard's videos on this machine; those elsewhere are taken to stay as they are."""
  digest = hashlib.sha256()
  for item in plan.items(shard):
    if not storage.is_remote(item.video):
      digest.update(f"{item.video!a} {storage.file_state(item.video)}\n".encode())
  return digest.hexdigest()


def build_shard(
  shard: Shard, plan: Plan, recipe: Recipe, folder: epath.Path, digest: str, decoding: DecodeProcess
) -> None:
  """Makes a shard in `folder`, unless it is done.

  Raises:
    UserError: the disk is full, or a text cannot be read.
  """
  if is_done(shard, plan, folder, digest):
    return
  path, account = folder / f"{shard.name}.array_record", folder / f"{shard.name}.json"
  lacking = dict.fromkeys(LACKING, 0)
  left_out: list[SkippedClip] = []
  count = size = 0
  try:
    account.unlink(missing_ok=True)  # first: it must never stand beside other records
    videos = _files(shard, plan)
    with storage.atomic_path(path) as temporary, _writer(temporary) as write:
      for item in plan.items(shard):
        record = clip_record(item, recipe, decoding, lacking)
        if isinstance(record, SkippedClip):
          left_out.append(dataclasses.replace(record, name=item.id, detail=f"{item.video}: {record.detail}"))
          continue
        data = _serialise(record, recipe.extra)
        write(data)
        count, size = count + 1, size + len(data)
    Account(digest, count, size, lacking, left_out, videos).write(account)
  except OSError as error:
    raise storage.disk_error(folder, error) from error


@contextlib.contextmanager
def _writer(path: pathlib.Path) -> Iterator[Any]:
  """Gives the function that writes a record. Raises OSError where the disk takes no more."""
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
  try:
    yield lambda data: _with_os_error(functools.partial(writer.write, data))
  finally:
    _with_os_error(writer.close)


def _with_os_error(call: Any) -> None:
  """ArrayRecord's RuntimeError as the OSError that it is."""
  try:
    call()
  except RuntimeError as error:
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    code = next((code for code in codes if os.strerror(code) in str(error)), errno.EIO)
    raise OSError(code, str(error)) from error


def clip_record(
  item: Item, recipe: Recipe, decoding: DecodeProcess, lacking: dict[str, int]
) -> dict[str, Any] | SkippedClip:
  """A record as `record_features` has it, or why there is none; counts in `lacking` texts looked up in vain."""
  texts = {"subtitle": item.subtitle, "caption": item.caption}
  for field, path in recipe.lookups.items():
    texts[field] = texts[field] or text_lookup.open_shared(path).get(item.id) or ""
  for field in {*recipe.lookups, *item.lacking}:
    lacking[f"lacking_{field}"] += not texts[field]
  if not any((*texts.values(), *item.descriptions)):
    return SkippedClip(item.id, "without_text", "no subtitle, caption or description")
  frames = _frames(item, decoding)
  if isinstance(frames, SkippedClip):
    return frames
  return {
    "id": item.id,
    "frames": frames,
    "num_frames": len(frames),
    **texts,
    "description": list(item.descriptions),
    **{name: item.extra.get(name, "") for name in recipe.extra},
  }


def _frames(item: Item, decoding: DecodeProcess) -> list[bytes] | SkippedClip:
  try:
    with _local(item) as (path, offset):
      return decoding.frames(path, item.start, item.end, offset, item.size)
  except FileNotFoundError:
    return SkippedClip(item.id, "missing", NO_SUCH_FILE)
  except OSError as error:
    return SkippedClip(item.id, "undecodable", f"cannot be read ({error.strerror or error})")


@contextlib.contextmanager
def _local(item: Item) -> Iterator[tuple[str, int]]:
  """(path on this machine, offset in it); a copy where the video lies elsewhere. Raises OSError where it is absent."""
  if not storage.is_remote(item.video):
    pathlib.Path(item.video).stat()
    yield item.video, item.offset
    return
  with tempfile.TemporaryDirectory() as folder, epath.Path(item.video).open("rb") as source:
    copy = pathlib.Path(folder) / epath.Path(item.video).name
    with copy.open("wb") as target:
      if item.size:
        source.seek(item.offset)
        target.write(source.read(item.size))
      else:
        shutil.copyfileobj(source, target)
    yield os.fspath(copy), 0


def is_there(item: Item) -> bool:
  """Whether the clip's file exists."""
  return epath.Path(item.video).exists()


@functools.cache
def _features(extra: tuple[str, ...]) -> Any:
  from tensorflow_datasets.core import example_serializer

  features = records.record_features(extra)
  return features, example_serializer.ExampleSerializer(features.get_serialized_info())


def _serialise(record: dict[str, Any], extra: tuple[str, ...]) -> bytes:
  features, serializer = _features(extra)
  example = serializer.get_tf_example(features.encode_example(record))
  return example.SerializeToString(deterministic=True)  # a map's order would differ from process to process
