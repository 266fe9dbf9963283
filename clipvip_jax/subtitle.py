"""Writes a manifest of clips with what is said in them: from subtitle files, or by speech recognition.

  python -m clipvip_jax.subtitle VIDEOS --out=FILE.jsonl
  python -m clipvip_jax.subtitle VIDEOS --out=FILE.jsonl --endpoint=URL[,URL...] --model=NAME
  python -m clipvip_jax.subtitle VIDEOS --out=FILE.jsonl --engine=faster-whisper --model=small

VIDEOS is a folder, or a list with one path per line. Subtitle files beside the videos (NAME.srt, NAME.vtt, NAME.en.vtt)
are used first. An endpoint speaks the OpenAI transcription protocol; its key is read from the environment variable that
--key_variable names. Videos are cut along sentences into clips of --min_seconds to --max_seconds, as HD-VILA is. With
--silent_seconds, videos without speech become clips of this length without a subtitle. --validation=0.1 holds out a
tenth of the videos.

Transcripts are kept in FILE.jsonl.transcripts: after an interruption, the same command resumes, and other lengths of
clips need no new transcripts. Videos that were skipped are tried again. With --shard=I/N, the process that completes
the transcripts writes the manifest. Exit codes: 0 success; 2 bad input, or too many videos were skipped.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipvip_jax.captioning import endpoint_options
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.utils.bucket_copies import errors_by_address, uploaded_file
from clipvip_jax.utils.cli import Parser, check_ranges, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import Part
from clipvip_jax.utils.log import log

if TYPE_CHECKING:
  from clipvip_jax.transcription.engine import Engine

_FILES, _ENDPOINT, _WHISPER = "files", "endpoint", "faster-whisper"
_CUTS = ("sentences", "none")
_KEY_VARIABLE = "CLIPVIP_SPEECH_KEY"
_LIMITS = (
  *endpoint_options.LIMITS,
  ("max_skipped", 0, 1),
  ("validation", 0, 1),
)


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, transcribes the videos and writes the manifest."""
  options = _parser().parse_args(argv)
  check_ranges(options, _LIMITS)
  out, part = options.out, Part.parse(options.shard)
  if out.suffix != ".jsonl":
    raise UserError(f"--out={out} must end with .jsonl, as manifests do")
  from clipvip_jax.transcription.manifest import CutSettings, write_manifest
  from clipvip_jax.transcription.subtitle_files import SUFFIXES
  from clipvip_jax.transcription.transcripts import SubtitleFiles, Transcripts

  settings = CutSettings(options.cut, options.min_seconds, options.max_seconds, options.silent_seconds)
  settings.check()
  engine = _engine(options)
  videos = list_media.list_videos(options.videos, companions=() if options.ignore_files else SUFFIXES)
  files = SubtitleFiles(not options.ignore_files, options.language)
  transcripts = Transcripts(videos, out, files, engine)
  with errors_by_address():
    transcripts.write(part)
    complete = transcripts.read()
  if complete is None:
    log.info(
      "wrote part %s of %s; the manifest is written when all parts are complete", options.shard, transcripts.folder
    )
    return
  with uploaded_file(out, "--out") as local:
    num_clips = write_manifest(local, videos, complete, settings, options.max_skipped, options.validation)
  log.info("wrote %s: %d clips of %d videos", out, num_clips, len(videos))


def _parser() -> Parser:
  parser = Parser(__doc__)
  add = parser.add_argument
  add("videos", metavar="VIDEOS", type=path_argument("VIDEOS"), help="a folder, or a list with one path per line")
  add("--out", metavar="FILE.jsonl", required=True, type=path_argument("--out"), help="the manifest to write")
  add(
    "--engine",
    choices=(_FILES, _ENDPOINT, _WHISPER),
    help="files: subtitle files only; default: endpoint if --endpoint is set, else files",
  )
  add("--model", default="", help="name at the endpoint; with faster-whisper, a size, a folder or OWNER/NAME")
  add("--language", default="", help="language code, such as en; default: detected, or that of the only subtitle file")
  add("--ignore_files", action="store_true", help="recognise speech even if a video has a subtitle file")
  add("--cut", choices=_CUTS, default="sentences", help="sentences, or none: one clip per video; default: sentences")
  add("--min_seconds", type=float, default=3.0, help="length of the shortest clip; default: 3")
  add("--max_seconds", type=float, default=20.0, help="length of the longest clip; default: 20")
  add(
    "--silent_seconds",
    type=float,
    default=0.0,
    help="length of clips of videos without speech; default: 0, no such clips",
  )
  add("--validation", type=float, default=0.0, help="fraction of the videos in the split validation; default: 0")
  add("--shard", metavar="I/N", default="1/1", help="transcribes part I of N, from 1 to N; default: 1/1, all videos")
  add("--max_skipped", type=float, default=0.05, help="accepted fraction of skipped videos; default: 0.05")
  endpoint_options.add_endpoint_options(parser, _KEY_VARIABLE, 8, 600, "ten minutes of sound")
  return parser


def _engine(options: argparse.Namespace) -> "Engine | None":
  """Returns the engine that the options describe; None for subtitle files alone."""
  name = options.engine or (_ENDPOINT if options.endpoint else _FILES)
  if name == _FILES:
    if options.endpoint or options.model or options.ignore_files:
      raise UserError(
        "--endpoint, --model and --ignore_files need an engine; set --endpoint=URL, or --engine=faster-whisper"
      )
    return None
  if not options.model:
    raise UserError(f"--engine={name} needs --model; name the model")
  if name == _WHISPER:
    from clipvip_jax.transcription.engine import WhisperEngine

    return WhisperEngine(options.model, options.language)
  from clipvip_jax.captioning.endpoint_client import ClientSettings
  from clipvip_jax.transcription.speech_endpoint import SpeechEndpoint
  from clipvip_jax.transcription.speech_protocol import SpeechProtocol

  settings = ClientSettings(**endpoint_options.client_fields(options, SpeechProtocol.path, _KEY_VARIABLE))
  return SpeechEndpoint(settings, options.model, options.language, {"temperature": 0})


if __name__ == "__main__":
  run_command(main)
