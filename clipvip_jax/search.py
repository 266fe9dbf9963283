"""Searches a video index by text.

  python -m clipvip_jax.search --index=FILE.safetensors QUERY [QUERY ...] [--top=10] [--html=OUT.html]

Each QUERY is a sentence, such as "a dog catches a frisbee". Queries are embedded with the model of the index.
Exit codes: 0 success; 2 bad input.
"""

import pathlib
from collections.abc import Sequence

from clipvip_jax.inference import video_index
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, searches and prints."""
  parser = Parser(__doc__)
  parser.add_argument("queries", metavar="QUERY", nargs="+")
  parser.add_argument("--index", metavar="FILE", required=True, type=pathlib.Path, help="written by clipvip_jax.embed")
  parser.add_argument("--model", metavar="SOURCE", help="default: the SOURCE that the index names")
  parser.add_argument("--top", type=int, default=10, help="videos per query (default 10)")
  parser.add_argument("--html", type=pathlib.Path, help="also writes a page with frames of the videos")
  options = parser.parse_args(argv)
  if not all(query.strip() for query in options.queries):
    raise UserError("a QUERY is empty; describe what to search for")
  if options.top < 1:
    raise UserError(f"--top={options.top} must be at least 1")
  if options.html and not options.html.resolve().parent.is_dir():
    raise UserError(f"--html={options.html}: its folder does not exist; create it first")
  index = video_index.read_index(options.index)
  # Late: options are checked before JAX is imported.
  from clipvip_jax.inference import embedding_model
  from clipvip_jax.inference.search import format_hits, search_index
  from clipvip_jax.reporting.search_page import write_search_page

  model = embedding_model.load(options.model or index.source, crop=index.crop)
  hits = search_index(model, index, options.queries, options.top)
  for query, query_hits in zip(options.queries, hits, strict=True):
    print(format_hits(query, query_hits))
  if options.html:
    write_search_page(options.html, options.queries, hits)
    log.info("wrote %s", options.html)


if __name__ == "__main__":
  run_command(main)
