"""Embeds many videos into an index that search.py searches.

  python -m clipvip_jax.embed --model=SOURCE --videos=DIR_OR_LIST --out=FILE.safetensors

What is finished is kept in FILE.safetensors.parts: after a stop of any kind the same command goes on there, and ends with the
same bytes. Videos that cannot be read are named, counted and left out. Exit codes: 0 done; 2 bad input, or too many
such videos.
"""

import hashlib
import itertools
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from clipvip_jax.inference import video_index
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.progress import format_duration

PART = 64  # videos in a part; a stop costs at most that many
_NAMED = 3  # bad videos that the last message names


def embed_files(
  model: Any, videos: Sequence[pathlib.Path], out: pathlib.Path, *, threads: int = 0, max_bad_share: float = 0.05
) -> video_index.VideoIndex:
  """Embeds videos into the index `out`, going on where an earlier call stopped.

  Args:
    model: see `clipvip_jax.load`.
    videos: as `clips.list_videos` gives them.
    out: the file; its parts stand beside it until it is whole.
    threads: that decode while the model computes; 0: one a core.
    max_bad_share: of videos that cannot be read; 1 accepts any.

  Raises:
    UserError: `out` or its parts belong to other videos or another model, or too many videos are bad.
  """
  parts = out.with_name(out.name + ".parts")
  names = [os.fspath(video) for video in videos]
  threads = threads or os.cpu_count() or 1
  if out.exists():
    return _finished(out, model, names)
  listed = hashlib.blake2b(os.fsencode("\0".join(names)), digest_size=4).hexdigest()
  _claim(out, parts, {"identity": model.identity, "videos": f"{len(names)}, digest {listed}", "part": PART})
  count = -(-len(videos) // PART)
  missing = [number for number in range(count) if not _is_done(parts / f"{number}.safetensors", model.read, threads)]
  waiting = (video for number in missing for video in videos[number * PART : (number + 1) * PART])
  found = read_media.read_all(waiting, model.read, threads)
  started = time.monotonic()
  for done, number in enumerate(missing, 1):
    size = len(videos[number * PART : (number + 1) * PART])
    video_index.write_index(parts / f"{number}.safetensors", _part(model, itertools.islice(found, size)))
    elapsed, read = time.monotonic() - started, min(done * PART, len(videos))
    left = elapsed / done * (len(missing) - done)
    log.info("%d/%d parts | %.1f videos/s | %s left", number + 1, count, read / elapsed, format_duration(left))
  whole = _joined([video_index.read_index(parts / f"{number}.safetensors") for number in range(count)], model)
  _check_bad(whole, len(videos), max_bad_share)
  video_index.write_index(out, whole)
  shutil.rmtree(parts)
  return whole


def _finished(out: pathlib.Path, model: Any, names: list[str]) -> video_index.VideoIndex:
  """The index that is there, where it is that of the same job."""
  if out.is_dir():
    raise UserError(f"--out={out} is a folder; name a file")
  before = video_index.read_index(out)
  if before.identity != model.identity or sorted([*before.videos, *before.bad]) != sorted(names):
    raise UserError(f"{out} is an index of another model or of other videos: name another --out, or delete it")
  log.info("%s is finished already", out)
  return before


def _claim(out: pathlib.Path, parts: pathlib.Path, job: dict[str, Any]) -> None:
  """Refuses parts of another job."""
  try:
    parts.mkdir(parents=True, exist_ok=True)
    workdir.check_same(parts, "job", job, flag="--out")
    config_tree.write_json(parts / "job.json", job)
  except OSError as error:
    raise UserError(f"--out={out} cannot be written: {error.strerror}") from error


def _is_done(part: pathlib.Path, read: Callable[[Any], Any], threads: int) -> bool:
  """Whether a part can be kept: not if a crash of the machine cut it, or a bad video of it has been mended."""
  try:
    bad = video_index.read_index(part).bad
  except UserError:
    return False
  return all(isinstance(result, UserError) for _, result in read_media.read_all(bad, read, threads))


def _part(model: Any, found: Iterator[tuple[Any, Any]]) -> video_index.VideoIndex:
  good: list[str] = []
  bad: list[str] = []
  reasons: list[str] = []

  def pixels() -> Iterator[np.ndarray]:
    for video, result in found:
      if isinstance(result, UserError):
        reason = " ".join(str(result).removeprefix(f"{video}: ").split())
        log.warning("left out %s: %s", printable(os.fspath(video)), printable(reason))
        bad.append(os.fspath(video))
        reasons.append(reason)
      else:
        good.append(os.fspath(video))
        yield result

  rows = list(model.embed_pixels(pixels()))
  features = np.array(rows, np.float32).reshape(-1, model.config.model.embed_dim)
  finite = np.isfinite(features).all(axis=1)
  if not finite.all():
    raise UserError(f"{good[int(finite.argmin())]}: its features are not finite; the model {model.source!r} is damaged")
  return video_index.VideoIndex(features, good, model.source, model.identity, bad, reasons)


def _joined(parts: list[video_index.VideoIndex], model: Any) -> video_index.VideoIndex:
  dim = model.config.model.embed_dim
  return video_index.VideoIndex(
    features=np.concatenate([np.zeros((0, dim), np.float32), *(part.features for part in parts)]),
    videos=[name for part in parts for name in part.videos],
    source=model.source,
    identity=model.identity,
    bad=[name for part in parts for name in part.bad],
    reasons=[reason for part in parts for reason in part.reasons],
  )


def _check_bad(whole: video_index.VideoIndex, count: int, max_bad_share: float) -> None:
  if whole.videos and len(whole.bad) <= max_bad_share * count:
    return
  named = "; ".join(f"{name}: {reason}" for name, reason in list(zip(whole.bad, whole.reasons, strict=True))[:_NAMED])
  if not whole.videos:
    raise UserError(f"none of {count} videos can be read; first {printable(named)}")
  raise UserError(
    f"{len(whole.bad)} of {count} videos cannot be read, and at most {max_bad_share:.1%} may be; first"
    f" {printable(named)}. Mend them, or allow more with --max_bad_share, and run again: what is finished is kept"
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Reads options, then one call."""
  parser = Parser(__doc__)
  parser.add_argument("--model", metavar="SOURCE", required=True, help="file, folder, hf://OWNER/NAME or workdir")
  parser.add_argument("--videos", metavar="DIR_OR_LIST", required=True, help="a folder, or a file with a path a line")
  parser.add_argument("--out", metavar="FILE.safetensors", required=True, type=pathlib.Path)
  parser.add_argument("--batch_size", type=int, default=32, help="videos that are computed together (default 32)")
  parser.add_argument("--threads", type=int, default=0, help="that decode; 0, the default: one a core")
  parser.add_argument("--max_bad_share", type=float, default=0.05, help="of videos, may be unreadable (default 0.05)")
  options = parser.parse_args(argv)
  if options.out.suffix != ".safetensors":
    raise UserError(f"--out={options.out} must end with .safetensors")
  if not 0 <= options.max_bad_share <= 1:
    raise UserError(f"--max_bad_share={options.max_bad_share} is no share: allowed are 0 to 1")
  if options.threads < 0:
    raise UserError(f"--threads={options.threads} is negative")
  videos = read_media.list_videos(options.videos)
  import clipvip_jax  # late: a wrong option answers before JAX is there

  model = clipvip_jax.load(options.model, batch_size=options.batch_size)
  whole = embed_files(model, videos, options.out, threads=options.threads, max_bad_share=options.max_bad_share)
  log.info("wrote %s: %d videos, %d left out", options.out, len(whole.videos), len(whole.bad))


if __name__ == "__main__":
  run_command(main)
