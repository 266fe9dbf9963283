"""Builds a video index: embeds videos in parts, resumes after an interruption, and writes the index atomically."""

import collections
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from clipvip_jax.inference import index_tables, video_index
from clipvip_jax.inference.feature_file import SUFFIX
from clipvip_jax.inference.parts_folder import claim_parts
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.media_versions import media_versions
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.progress import ProgressReporter
from clipvip_jax.utils.storage import PathLike

PART_SIZE = 64  # videos per part: the most that an interruption loses
_MAX_NAMED = 3  # unreadable videos that an error message names


class VideoEmbedder(Protocol):
  """Reads and embeds videos, as `embedding_model.EmbeddingModel` does; its attributes are documented there."""

  @property
  def source(self) -> str: ...
  @property
  def identity(self) -> str: ...
  @property
  def config(self) -> ConfigDict: ...
  def read_clip(self, video: str | os.PathLike[str], /) -> Float[np.ndarray, "..."]: ...
  def embed_pixels(self, pixels: Iterable[Float[np.ndarray, "..."]], /) -> Iterator[Float[np.ndarray, " e"]]: ...


@dataclasses.dataclass(frozen=True)
class IndexLayout:
  """Properties of an index beyond its videos.

  Attributes:
    part_sizes: numbers of consecutive videos that are embedded together; None: PART_SIZE each.
    segments: see `VideoIndex`.
    shard: see `VideoIndex`.
    paths: the file of each video, if the videos are names of clips; None: the videos are paths.
  """

  part_sizes: Sequence[int] | None = None
  segments: str = ""
  shard: str = ""
  paths: Sequence[str] | None = None


def build_index(
  model: VideoEmbedder,
  videos: Sequence[PathLike],
  out: pathlib.Path,
  *,
  threads: int = 0,
  max_skipped: float = 0.05,
  flag: str = "--out",
  layout: IndexLayout = IndexLayout(),
  publish: Callable[[pathlib.Path], None] = lambda path: None,
) -> VideoIndex:
  """Embeds videos into the index `out`; idempotent, and resumes where an earlier call was interrupted.

  Finished parts are kept in `out`.parts until the index is complete. A part is embedded again if its file is corrupt,
  or if one of its videos was replaced since or has become readable; in a complete index, only such videos are.

  Args:
    model: see `clipvip_jax.load`.
    videos: see `list_media.list_videos`.
    out: the index file.
    threads: that decode while the model computes; 0: one per core.
    max_skipped: the largest fraction of videos that may be unreadable, 0 to 1.
    flag: the option that chose `out`, for error messages.
    layout: see `IndexLayout`.
    publish: called with each file that was written, `out` last.

  Returns:
    The index. An interrupted and resumed build writes the same bytes as an uninterrupted one.

  Raises:
    UserError: no videos; other videos, another model or another process; or too many unreadable videos.
  """
  if not videos:
    raise UserError("no videos to embed; pass at least one")
  names, threads = [os.fspath(video) for video in videos], threads or os.cpu_count() or 1
  finished = _read_finished(out, model, names, flag, layout) if out.exists() else None
  versions = _versions(names, layout.paths or names, threads)
  if finished is not None:
    index = _update(finished, model, versions, threads)
    check_unreadable(index, len(videos), max_skipped)
    if index is not finished:
      video_index.write_index(out, index)
      publish(out)
    return index
  parts_dir = out.with_name(f"{out.name}.parts")
  with claim_parts(parts_dir, _job(model, names), flag) as job_file:
    publish(job_file)
    parts = {parts_dir / f"{number}{SUFFIX}": part for number, part in enumerate(_split(videos, layout.part_sizes))}
    _embed_missing_parts(model, parts, versions, threads, publish)
    table = dataclasses.replace(index_tables.merge_tables(parts), segments=layout.segments, shard=layout.shard)
    check_unreadable(table, len(names), max_skipped)
    video_index.write_joined(out, table, list(parts))
    publish(out)
    shutil.rmtree(parts_dir)
  return video_index.read_index(out)


def _versions(names: Sequence[str], paths: Sequence[str], threads: int) -> dict[str, str]:
  """Returns the version of the file of each video by the video's name."""
  by_path = media_versions(paths, threads)
  return {name: by_path[path] for name, path in zip(names, paths, strict=True)}


def _split(videos: Sequence[PathLike], sizes: Sequence[int] | None) -> list[Sequence[PathLike]]:
  if sizes is None:
    return [videos[start : start + PART_SIZE] for start in range(0, len(videos), PART_SIZE)]
  ends = [0, *itertools.accumulate(sizes)]
  return [videos[start:end] for start, end in itertools.pairwise(ends)]


def _read_finished(
  out: pathlib.Path, model: VideoEmbedder, names: list[str], flag: str, layout: IndexLayout
) -> VideoIndex:
  """Returns the index that exists, if it is of the same model and videos."""
  if out.is_dir():
    raise UserError(f"{flag}={out} is a folder; name a file")
  index = video_index.read_index(out)
  if index.crop != model.config.data.crop:
    raise UserError(
      f"{out} is an index with crop={index.crop!r}, not {model.config.data.crop!r}; name another {flag}, or pass"
      f" --crop={index.crop}"
    )
  same_layout = (index.segments, index.shard) == (layout.segments, layout.shard)
  if index.identity != model.identity or not same_layout or sorted([*index.videos, *index.bad]) != sorted(names):
    raise UserError(f"{out} is an index of another model or of other videos; name another {flag}, or delete it")
  log.info("%s is complete already", out)
  return index


def _update(index: VideoIndex, model: VideoEmbedder, versions: Mapping[str, str], threads: int) -> VideoIndex:
  """Embeds replaced videos, and those that have become readable.

  Args:
    index: a complete index.
    model: of the index.
    versions: of all videos by name, in the order of the index to return.
    threads: that decode.

  Returns:
    The index itself if there are no such videos.
  """
  replaced = index.replaced(versions)
  if replaced:
    log.info("%d videos were replaced since they were embedded; embedding them again", len(replaced))
  outdated = {*index.bad, *replaced}
  clips = read_media.map_in_threads((name for name in versions if name in outdated), model.read_clip, threads)
  retried = _embed_part(model, clips, versions)
  if not replaced and not retried.videos:
    return index
  kept = [row for row, name in enumerate(index.videos) if name not in replaced]
  rows = dataclasses.replace(index.select(kept), bad=[], reasons=[])
  merged = index_tables.merge([rows, retried])
  position = {name: number for number, name in enumerate(versions)}
  return merged.select(sorted(range(len(merged.videos)), key=lambda row: position[merged.videos[row]]))


def _job(model: VideoEmbedder, names: Sequence[str]) -> dict[str, str | int]:
  """Returns what the parts of an index are of."""
  videos = describe_names(names)
  return {"identity": model.identity, "crop": model.config.data.crop, "videos": videos, "part": PART_SIZE}


def describe_names(names: Sequence[str]) -> str:
  """Returns the number and a digest of names of videos, to tell lists of videos apart."""
  digest = hashlib.blake2b(os.fsencode("\0".join(names)), digest_size=4).hexdigest()
  return f"{len(names)}, digest {digest}"


def _embed_missing_parts(
  model: VideoEmbedder,
  parts: Mapping[pathlib.Path, Sequence[PathLike]],
  versions: Mapping[str, str],
  threads: int,
  publish: Callable[[pathlib.Path], None],
) -> None:
  """Embeds the parts that are missing, corrupt or outdated; decoding runs ahead across parts."""
  missing = {path: part for path, part in parts.items() if not _is_complete(path, part, model, versions, threads)}
  if len(missing) < len(parts):
    log.info("resuming: %d of %d parts are complete", len(parts) - len(missing), len(parts))
  noted: list[set[str]] = []  # appended to by threads

  def read_clip(video: PathLike) -> np.ndarray:
    with collect_notes() as notes:
      clip = model.read_clip(video)
    noted.append(notes)
    return clip

  clips = read_media.map_in_threads(itertools.chain.from_iterable(missing.values()), read_clip, threads)
  progress, done = ProgressReporter(sum(map(len, missing.values())), "videos"), 0
  for path, part in missing.items():
    video_index.write_index(path, _embed_part(model, itertools.islice(clips, len(part)), versions))
    publish(path)
    done += len(part)
    progress.update(done)
  if counts := collections.Counter(itertools.chain.from_iterable(noted)):
    log.info("accepted with notes: %s", ", ".join(f"{count} {note}" for note, count in sorted(counts.items())))


def _is_complete(
  path: pathlib.Path, videos: Sequence[PathLike], model: VideoEmbedder, versions: Mapping[str, str], threads: int
) -> bool:
  """Returns whether a part can be kept: an intact file of these videos, of which none was replaced or made readable."""
  try:
    part = video_index.read_index(path)
  except UserError:
    return False
  config, names = model.config, sorted(os.fspath(video) for video in videos)
  found = (part.identity, part.crop, part.features.shape[1], sorted([*part.videos, *part.bad]))
  if found != (model.identity, config.data.crop, config.model.embed_dim, names):
    log.warning("%s is of another model or of other videos; embedding it again", path.name)
    return False
  if replaced := part.replaced(versions):
    log.info("%d videos of %s were replaced; embedding it again", len(replaced), path.name)
    return False
  return all(isinstance(clip, MediaError) for _, clip in read_media.map_in_threads(part.bad, model.read_clip, threads))


def _embed_part(
  model: VideoEmbedder,
  clips: Iterable[tuple[str | os.PathLike[str], np.ndarray | MediaError]],
  versions: Mapping[str, str],
) -> VideoIndex:
  """Embeds (video, its pixels or the error of reading it), and records the versions of the videos."""
  good: list[str] = []
  bad: list[str] = []
  reasons: list[str] = []

  def readable() -> Iterator[np.ndarray]:
    for video, clip in clips:
      name = os.fspath(video)
      if isinstance(clip, MediaError):
        reason = " ".join(str(clip).removeprefix(f"{video}: ").split())
        log.warning("skipped %s: %s", printable(name), printable(reason))
        bad.append(name)
        reasons.append(reason)
      else:
        good.append(name)
        yield clip

  features = np.array(list(model.embed_pixels(readable())), np.float32).reshape(-1, model.config.model.embed_dim)
  finite = np.isfinite(features).all(axis=1)
  if not finite.all():
    name = good[int(finite.argmin())]
    raise UserError(f"{name}: its features are not finite; check the weights of {model.source!r} for NaN")
  recorded = [versions[name] for name in good]
  crop = model.config.data.crop
  return VideoIndex(features, good, model.source, model.identity, bad, reasons, crop, versions=recorded)


def check_unreadable(index: VideoIndex, num_videos: int, max_skipped: float) -> None:
  """Raises UserError if too many videos, or all of them, are unreadable; a shard may have none that is readable."""
  is_empty = not index.videos and not index.shard
  if not is_empty and len(index.bad) <= max_skipped * num_videos:
    return
  pairs = itertools.islice(zip(index.bad, index.reasons, strict=True), _MAX_NAMED)
  first = printable("; ".join(f"{name}: {reason}" for name, reason in pairs))
  if is_empty:
    raise UserError(f"all {num_videos} videos are unreadable, first {first}; check --videos")
  raise UserError(
    f"{len(index.bad)} of {num_videos} videos cannot be read, more than --max_skipped={max_skipped:g} allows; first"
    f" {first}. Repair them or raise --max_skipped, and run the same command again: it resumes"
  )
