"""Captions the middle frame of every clip of a corpus, a manifest or a folder of videos.

  python -m clipvip_jax.caption SOURCE --out=DIR --endpoint=URL[,URL...] --model=NAME
  python -m clipvip_jax.caption SOURCE --out=DIR --engine=transformers --model=FOLDER_OR_hf://OWNER/NAME
  python -m clipvip_jax.caption SOURCE --out=DIR --engine=MODULE:FUNCTION

SOURCE is a built corpus (NAME), whose frames are stored; a manifest (FILE.jsonl); or a folder of videos. An endpoint
speaks the OpenAI chat-completions protocol, as vLLM, SGLang, Ollama, llama.cpp and hosted services do. Its key is read
from the environment variable that --key_variable names. FUNCTION(frames, prompt) returns one text per frame; frames are
uint8 RGB arrays [H, W, 3].

DIR then holds JSON lines by clip, for `data_tool build --captions=DIR` and `data_tool add-captions`. Complete files are
kept: after an interruption, the same command resumes, and the output is byte-identical to that of an uninterrupted run.
Clips without an answer are tried again. Exit codes: 0 success; 2 bad input, or too many clips without a caption.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipvip_jax.captioning import endpoint_options
from clipvip_jax.utils import storage
from clipvip_jax.utils.bucket_copies import errors_by_address
from clipvip_jax.utils.cli import Parser, check_ranges, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import Part
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  from clipvip_jax.captioning.engine import Engine
  from clipvip_jax.captioning.frame_sources import FrameSource

_ENDPOINT, _TRANSFORMERS = "endpoint", "transformers"
_KEY_VARIABLE = "CLIPVIP_CAPTION_KEY"
_PARAMETERS = {
  _ENDPOINT: {"temperature": 0, "max_tokens": 100},
  _TRANSFORMERS: {"max_new_tokens": 100, "do_sample": False},
}
_LIMITS = (
  *endpoint_options.LIMITS,
  ("batch_size", 1, 4096),
  ("threads", 0, 1024),
  ("text_length", 3, 4096),
  ("clips_per_file", 1, 1_000_000),
  ("max_skipped", 0, 1),
)


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options and captions the clips."""
  options = _parser().parse_args(argv)
  check_ranges(options, _LIMITS)
  part = Part.parse(options.shard)
  engine = _engine(options)
  from clipvip_jax.captioning import caption_run  # late: options are checked before libraries are imported
  from clipvip_jax.input_pipeline.load_tokenizer import load_tokenizer

  settings = caption_run.RunSettings(
    out=options.out,
    tokenizer=load_tokenizer(options.tokenizer),
    text_length=options.text_length,
    clips_per_file=options.clips_per_file,
    part=part,
    max_skipped=options.max_skipped,
  )
  with errors_by_address():
    log.info("%s: %s", options.out, caption_run.caption_clips(_source(options), engine, settings))


def _parser() -> Parser:
  parser = Parser(__doc__)
  add = parser.add_argument
  add("source", metavar="SOURCE", help="a built corpus, a manifest FILE.jsonl, or a folder of videos")
  add("--out", metavar="DIR", required=True, type=path_argument("--out"), help="folder of the captions")
  add("--engine", default=_ENDPOINT, help="endpoint, transformers or MODULE:FUNCTION; default: endpoint")
  add("--model", default="", help="name at the endpoint; with transformers, a folder or hf://OWNER/NAME[@REVISION]")
  add("--prompt", help='instruction; default for chat models: "Describe this picture in one short sentence."')
  add(
    "--parameters",
    metavar="JSON",
    default="{}",
    help='decoding parameters, such as {"max_tokens": 50}; null removes a default',
  )
  add("--shard", metavar="I/N", default="1/1", help="writes part I of N, from 1 to N; default: 1/1, all clips")
  add(
    "--clips_per_file",
    type=int,
    default=512,
    help="clips per output file, which an interruption may lose; default: 512",
  )
  add("--max_skipped", type=float, default=0.05, help="accepted fraction of clips without a caption; default: 0.05")
  text = parser.add_argument_group("length of captions")
  text.add_argument(
    "--tokenizer", default="clip", help="tokenizer of the text tower: clip or a tokenizer.json; default: clip"
  )
  text.add_argument(
    "--text_length", type=int, default=70, help="captions are cut to this number of tokens; default: 70"
  )
  corpus = parser.add_argument_group("corpus")
  corpus.add_argument("--config", default="", help="configuration of the corpus; default: the first")
  corpus.add_argument("--data_dir", default="", help="dataset directory; default: that of TFDS")
  corpus.add_argument("--split", default="", help="splits, separated by commas; default: all")
  endpoint = endpoint_options.add_endpoint_options(parser, _KEY_VARIABLE, 16, 120, "one request")
  endpoint.add_argument(
    "--answers_as", metavar="NAME", default="", help="model name that responses state, if it differs from --model"
  )
  local = parser.add_argument_group("other engines, and decoding")
  local.add_argument("--batch_size", type=int, default=8, help="frames per call; default: 8")
  local.add_argument("--trust_remote_code", action="store_true", help="run Python code from the model's folder")
  local.add_argument("--threads", type=int, default=0, help="decoding threads; default: 0, one per core")
  return parser


def _engine(options: argparse.Namespace) -> "Engine":
  """Returns the engine that the options describe, before anything is read."""
  from clipvip_jax.captioning.engine import DEFAULT_PROMPT

  parameters = _parameters(options)
  if options.engine not in (_ENDPOINT, _TRANSFORMERS):
    from clipvip_jax.captioning.function_engine import FunctionEngine

    prompt = DEFAULT_PROMPT if options.prompt is None else options.prompt
    return FunctionEngine(options.engine, options.model, prompt, options.batch_size)
  if not options.model:
    raise UserError(f"--engine={options.engine} needs --model; name the model")
  if options.engine == _TRANSFORMERS:
    from clipvip_jax.captioning.transformers_engine import TransformersEngine

    return TransformersEngine(
      options.model, options.prompt, parameters, options.batch_size, trust_remote_code=options.trust_remote_code
    )
  from clipvip_jax.captioning.chat_protocol import ChatProtocol
  from clipvip_jax.captioning.endpoint import EndpointEngine, EndpointSettings

  return EndpointEngine(
    EndpointSettings(
      **endpoint_options.client_fields(options, ChatProtocol.path, _KEY_VARIABLE),
      model=options.model,
      prompt=DEFAULT_PROMPT if options.prompt is None else options.prompt,
      parameters=parameters,
      answers_as=options.answers_as,
    )
  )


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the parameters of decoding: the engine's defaults with those of --parameters."""
  try:
    changed = json.loads(options.parameters)
  except (ValueError, RecursionError) as error:
    raise UserError(f"--parameters is not valid JSON ({error}); pass an object, as '{{\"max_tokens\": 50}}'") from error
  if not isinstance(changed, dict):
    raise UserError(f"--parameters={printable(options.parameters, 80)} is not an object; pass '{{\"max_tokens\": 50}}'")
  if reserved := {"model", "messages", "stream", "n"} & changed.keys():
    raise UserError(
      f"--parameters must not contain {', '.join(sorted(reserved))}; each request has one model and answer"
    )
  merged = {**_PARAMETERS.get(options.engine, {}), **changed}
  return {name: value for name, value in merged.items() if value is not None}


def _source(options: argparse.Namespace) -> "FrameSource":
  from clipvip_jax.captioning import frame_sources

  source = options.source
  is_corpus = source.isidentifier() and not source.endswith((".json", ".jsonl"))
  if not is_corpus and (options.config or options.data_dir or options.split):
    raise UserError(
      f"--config, --data_dir and --split do not apply to {printable(source)}, which is no corpus; remove them"
    )
  if not is_corpus:
    storage.check_path(source, "SOURCE")
  if source.endswith((".json", ".jsonl")):
    return frame_sources.VideoFrames(frame_sources.manifest_items(source), options.threads)
  if not is_corpus:
    folder = storage.absolute(source) if storage.is_remote(source) else pathlib.Path(source)
    if not storage.is_remote(source) and not folder.is_dir():
      raise UserError(
        f"{printable(source)} is no folder of videos, manifest (FILE.jsonl) or corpus (NAME); name one of them"
      )
    return frame_sources.VideoFrames(frame_sources.folder_items(folder), options.threads)
  from ml_collections import ConfigDict

  from clipvip_jax.input_pipeline.open_corpus import open_corpus

  corpus = open_corpus(ConfigDict({"name": source, "config": options.config, "data_dir": options.data_dir}), "")
  return frame_sources.CorpusFrames(corpus, options.split.split(",") if options.split else corpus.splits)


if __name__ == "__main__":
  run_command(main)
