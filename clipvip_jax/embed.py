"""Embeds videos into an index for `clipvip_jax.search`.

  python -m clipvip_jax.embed --model=SOURCE --videos=DIR_OR_LIST --out=FILE.safetensors [--segments=10s]
  python -m clipvip_jax.embed ... --out=FILE.safetensors --shard=I/N
  python -m clipvip_jax.embed --join --out=FILE.safetensors

Finished parts are kept in FILE.safetensors.parts until the index is complete. After an interruption, the same command
resumes, and the index is byte-identical to that of an uninterrupted run. Unreadable videos are skipped, listed and
counted. With --segments, each segment of a video is an item of the index. With --shard, one of N machines embeds its
part of the videos to a file beside FILE; --join then writes the index that one machine would have written.
Exit codes: 0 success; 2 bad input, or too many unreadable videos.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipvip_jax.inference.bucket_index import fetch_shards, local_index
from clipvip_jax.inference.feature_file import SUFFIX
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.input_pipeline.preprocessing import CROPS
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.storage import PathLike, is_remote

if TYPE_CHECKING:
  from clipvip_jax.inference.video_index import VideoIndex


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument("--model", metavar="SOURCE", help="file, folder, hf://OWNER/NAME or workdir")
  parser.add_argument(
    "--videos", metavar="DIR_OR_LIST", type=path_argument("--videos"), help="a folder, or a list with one path per line"
  )
  parser.add_argument("--out", metavar=f"FILE{SUFFIX}", type=path_argument("--out"), help="the index to write")
  parser.add_argument(
    "--segments", metavar="10s", help="embed segments of this length, such as 10s; default: complete videos"
  )
  parser.add_argument("--shard", metavar="I/N", help="embed shard I of N, from 1 to N; default: all videos")
  parser.add_argument("--join", action="store_true", help="join the shards of --out")
  parser.add_argument("--crop", choices=CROPS, help="how frames become square; default: as in training, or squash")
  parser.add_argument("--batch_size", type=int, default=32, help="most videos per batch; default: 32")
  parser.add_argument("--threads", type=int, default=0, help="decoding threads; default: 0, one per core")
  parser.add_argument(
    "--max_skipped", type=float, default=0.05, help="accepted fraction of unreadable videos; default: 0.05"
  )
  return parser


def _check_options(options: argparse.Namespace) -> None:
  """Raises UserError for options that are wrong in themselves."""
  required = ("out",) if options.join else ("model", "videos", "out")
  if missing := [f"--{name}" for name in required if getattr(options, name) is None]:
    raise UserError(f"the following arguments are required: {', '.join(missing)}; see --help")
  given = [
    f"--{name}" for name in ("model", "videos", "segments", "shard", "crop") if getattr(options, name) is not None
  ]
  if options.join and given:
    raise UserError(f"--join takes only --out and --max_skipped; omit {', '.join(given)}")
  if options.out.suffix != SUFFIX:
    raise UserError(f"--out={options.out} must end with {SUFFIX}")
  if not is_remote(options.out) and options.out.is_dir():  # now, not once the videos are measured
    raise UserError(f"--out={options.out} is a folder; name a file")
  if not 0 <= options.max_skipped <= 1:
    raise UserError(f"--max_skipped={options.max_skipped} must be between 0 and 1")
  if options.threads < 0:
    raise UserError(f"--threads={options.threads} must be at least 0")


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options and builds the index."""
  options = _parser().parse_args(argv)
  _check_options(options)
  if options.join:
    from clipvip_jax.inference import index_shards

    with local_index(options.out, "--out") as (local, publish):
      fetch_shards(options.out)
      index, out = index_shards.join_shards(local, options.max_skipped), options.out
      publish(local)
  else:
    index, out = _embed(options)
  unit = "segments" if index.segments else "videos"
  log.info("wrote %s: %d %s, %d skipped", out, len(index.videos), unit, len(index.bad))


def _embed(options: argparse.Namespace) -> tuple["VideoIndex", pathlib.PurePath]:
  """Builds the index, or a shard of it. Returns it with its file."""
  from clipvip_jax.inference import segments
  from clipvip_jax.inference.index_shards import Shard

  seconds = None if options.segments is None else segments.parse_seconds(options.segments)
  shard = None if options.shard is None else Shard.parse(options.shard)
  videos: Sequence[PathLike] = list_media.list_videos(options.videos)
  out, label, num_videos = options.out, "", len(videos)
  if shard is not None:
    out, label, videos = shard.path(out), shard.label(videos), shard.select(videos)
  from clipvip_jax.inference import embedding_model, load_model  # late: options are checked before JAX is imported
  from clipvip_jax.inference.index_builder import IndexLayout, VideoEmbedder, build_index
  from clipvip_jax.inference.video_views import ViewEmbedder

  batch_size = options.batch_size
  if seconds is None:
    # Of all videos, also those of other shards: the features of a video depend on it in their last bits.
    batch_size = embedding_model.fitting_batch_size(num_videos, batch_size)
  with local_index(out, "--out") as (local, publish):
    model: VideoEmbedder = load_model.load(options.model, crop=options.crop, batch_size=batch_size)
    layout = IndexLayout(shard=label)
    if seconds is not None:
      clips = segments.split_videos(videos, seconds, options.threads)
      model = ViewEmbedder(model, [clip for segments_of_video in clips for clip in segments_of_video])
      videos, layout = model.names, IndexLayout(segments.part_sizes(clips), f"{seconds:g}s", label, model.paths)
    index = build_index(
      model, videos, local, threads=options.threads, max_skipped=options.max_skipped, layout=layout, publish=publish
    )
  return index, out


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
