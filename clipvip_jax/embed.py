"""Embeds videos into an index for `clipvip_jax.search`.

  python -m clipvip_jax.embed --model=SOURCE --videos=DIR_OR_LIST --out=FILE.safetensors

Finished parts are kept in FILE.safetensors.parts until the index is complete. After an interruption, the same command
resumes, and the index is byte-identical to that of an uninterrupted run. Unreadable videos are skipped, listed and
counted. Exit codes: 0 success; 2 bad input, or too many unreadable videos.
"""

import pathlib
from collections.abc import Sequence

from clipvip_jax.inference.feature_file import SUFFIX
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.input_pipeline.preprocessing import CROPS
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options and builds the index."""
  parser = Parser(__doc__)
  parser.add_argument("--model", metavar="SOURCE", required=True, help="file, folder, hf://OWNER/NAME or workdir")
  parser.add_argument(
    "--videos", metavar="DIR_OR_LIST", required=True, help="a folder, or a list with one path per line"
  )
  parser.add_argument("--out", metavar=f"FILE{SUFFIX}", required=True, type=pathlib.Path, help="the index to write")
  parser.add_argument("--crop", choices=CROPS, help="how frames become square; default: as in training, or squash")
  parser.add_argument("--batch_size", type=int, default=32, help="videos per batch (default 32)")
  parser.add_argument("--threads", type=int, default=0, help="that decode videos; 0, the default: one per core")
  parser.add_argument(
    "--max_skipped", type=float, default=0.05, help="accepted fraction of unreadable videos (default 0.05)"
  )
  options = parser.parse_args(argv)
  if options.out.suffix != SUFFIX:
    raise UserError(f"--out={options.out} must end with {SUFFIX}")
  if not 0 <= options.max_skipped <= 1:
    raise UserError(f"--max_skipped={options.max_skipped} must be between 0 and 1")
  if options.threads < 0:
    raise UserError(f"--threads={options.threads} must be at least 0")
  videos = list_media.list_videos(options.videos)
  from clipvip_jax.inference import embedding_model, index_builder  # late: options are checked before JAX is imported

  model = embedding_model.load(options.model, crop=options.crop, batch_size=options.batch_size)
  index = index_builder.build_index(
    model, videos, options.out, threads=options.threads, max_skipped=options.max_skipped
  )
  log.info("wrote %s: %d videos, %d skipped", options.out, len(index.videos), len(index.bad))


if __name__ == "__main__":
  run_command(main)
