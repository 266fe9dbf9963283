"""Searches a video index by text.

  python -m clipvip_jax.search --index=FILE.safetensors QUERY [QUERY ...] [--top=10] [--html=OUT.html]
  python -m clipvip_jax.search --index=FILE.safetensors --serve [--port=8000]

Each QUERY is a sentence, such as "a dog catches a frisbee". Queries are embedded with the model of the index.
--where=CONDITION restricts the search, by path ('path=*holiday*') or by a field of --metadata ('year>=2020'): see
inference/filters.py. --serve opens a web page with a query field, for this machine only unless --host is set; Ctrl-C
stops it. Exit codes: 0 success; 2 bad input; 130 Ctrl-C.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipvip_jax.inference import bucket_index, video_index
from clipvip_jax.utils.bucket_copies import check_folder_of, errors_by_address, uploaded_file
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

if TYPE_CHECKING:
  from clipvip_jax.inference.approximate_index import ApproximateIndex
  from clipvip_jax.inference.embedding_model import EmbeddingModel
  from clipvip_jax.inference.filters import Metadata
  from clipvip_jax.inference.video_index import VideoIndex

_LOCALHOST, _PORT = "127.0.0.1", 8000


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument("queries", metavar="QUERY", nargs="*")
  parser.add_argument(
    "--index", metavar="FILE", required=True, type=path_argument("--index"), help="index written by clipvip_jax.embed"
  )
  parser.add_argument("--model", metavar="SOURCE", help="model of the queries; default: that of the index")
  parser.add_argument("--top", type=int, default=10, help="videos per query; default: 10")
  parser.add_argument("--html", type=path_argument("--html"), help="also write a page with frames of the videos")
  parser.add_argument(
    "--where",
    metavar="CONDITION",
    action="append",
    default=[],
    help="filter, such as 'path=*holiday*' or 'year>=2020'; repeatable: all must hold",
  )
  parser.add_argument(
    "--metadata",
    metavar="FILE",
    type=path_argument("--metadata"),
    help="fields for --where: CSV, TSV or JSON lines with a column video",
  )
  parser.add_argument(
    "--approximate",
    action="store_true",
    help="approximate search by a graph, which the first call builds; for millions of videos",
  )
  parser.add_argument("--serve", action="store_true", help="serve a web page with a query field")
  parser.add_argument("--host", help=f"address of --serve; default: {_LOCALHOST}, this machine only")
  parser.add_argument("--port", type=int, help=f"port of --serve; 0: any free port; default: {_PORT}")
  return parser


def _check_options(options: argparse.Namespace) -> None:
  """Raises UserError for options that are wrong in themselves."""
  if not options.queries and not options.serve:
    raise UserError("the following arguments are required: QUERY, or --serve; see --help")
  if not all(query.strip() for query in options.queries):
    raise UserError("a QUERY is empty; describe what to search for")
  if options.top < 1:
    raise UserError(f"--top={options.top} must be at least 1")
  check_folder_of(options.html, "--html")
  if options.serve and (options.queries or options.html or options.where):
    raise UserError("--serve takes queries and filters on its page; omit QUERY, --where and --html")
  if not options.serve and (options.host is not None or options.port is not None):
    raise UserError("--host and --port need --serve; add it, or omit them")


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, then searches and prints, or serves the page."""
  options = _parser().parse_args(argv)
  _check_options(options)
  from clipvip_jax.inference import approximate_index
  from clipvip_jax.inference.filters import Condition, Metadata

  if options.approximate:
    approximate_index.require_usearch()
  conditions = [Condition.parse(text) for text in options.where]
  with errors_by_address():
    path = bucket_index.fetch_index(options.index)
    index = video_index.read_index(path)
    metadata = Metadata(index, options.metadata)
    graph = approximate_index.open_graph(path, index) if options.approximate else None
  if graph is not None:
    bucket_index.upload_graph(options.index)
  if options.serve:
    _serve(options, index, metadata, graph)
    return
  selected = metadata.select(conditions)
  # Late: options are checked before JAX is imported.
  from clipvip_jax.inference.search import format_hits, search_index
  from clipvip_jax.reporting.search_page import write_search_page

  if selected is not None:
    log.info("%d of %d fulfil --where", selected.sum(), len(selected))
  model = _load_model(options, index)
  hits = search_index(model, index, options.queries, options.top, selected, graph)
  for query, query_hits in zip(options.queries, hits, strict=True):
    print(format_hits(query, query_hits))
  if options.html:
    with uploaded_file(options.html, "--html") as page:
      write_search_page(page, options.queries, hits)
    log.info("wrote %s", options.html)


def _load_model(options: argparse.Namespace, index: "VideoIndex") -> "EmbeddingModel":
  """Loads --model, or that of the index, which may have been moved since."""
  from clipvip_jax.inference import load_model

  try:
    return load_model.load(options.model or index.source, crop=index.crop)
  except UserError as error:
    if options.model:
      raise
    raise UserError(f"{error}. The index names this model: if it was moved, name it with --model") from error


def _serve(
  options: argparse.Namespace, index: "VideoIndex", metadata: "Metadata", graph: "ApproximateIndex | None"
) -> None:
  """Serves the page until a signal."""
  from clipvip_jax.inference.filters import Condition
  from clipvip_jax.inference.search import Hit, check_model, search_index
  from clipvip_jax.reporting.search_server import SearchServer

  port = _PORT if options.port is None else options.port
  with SearchServer(options.host or _LOCALHOST, port) as server:  # a port in use is reported before the model is loaded
    model = _load_model(options, index)
    check_model(model, index)
    model.embed_texts(["a video"])  # compiles, and reports a missing tokenizer now, not with the first query

    def search(query: str, where: str) -> list[Hit]:
      selected = metadata.select([Condition.parse(where)] if where else [])
      return search_index(model, index, [query], options.top, selected, graph)[0]

    log.info("open %s in a browser; Ctrl-C stops the server", server.url)
    server.serve(search, index)


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
