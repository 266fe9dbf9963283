"""Reads subtitle files: SubRip (.srt) and WebVTT (.vtt), with the word times of automatic captions."""

import functools
import html
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipvip_jax.transcription.words import Word, spread_words
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.utils.timestamps import parse_time

SUFFIXES = (".vtt", ".srt")
_ARROW = "-->"
_MAX_BYTES = 2**26
_WORD_TIME = re.compile(r"<(\d[\d:.]*)>")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # tags, and the overrides of SubStation in .srt
_SOUNDS = re.compile(r"\[[^\[\]]*\]|[♪♫#]{1,2}(?=\s|$)|[♪♫]")  # [Music]
_VTT_BLOCKS = ("NOTE", "STYLE", "REGION")
_STREAM_TIMES = "X-TIMESTAMP-MAP"


class _Cue(NamedTuple):
  start: float
  end: float
  lines: list[str]


class SubtitleError(UserError):
  """The subtitle file of a video is unreadable or corrupt, or there are several."""


def find_subtitles(video: pathlib.Path, language: str = "") -> pathlib.Path | None:
  """Returns the subtitle file beside a video: NAME.vtt or NAME.srt, or NAME.LANGUAGE.vtt as downloaders write it.

  Args:
    video: path of the video.
    language: such as "en", preferred to a file without a language; "": a file without one, or that of the only one.

  Raises:
    SubtitleError: there are files of several languages, and none is preferred.
  """
  pattern = re.compile(rf"{re.escape(video.stem)}(?:\.([A-Za-z]{{2,3}}(?:-[\w-]+)?))?(\.vtt|\.srt)", re.IGNORECASE)
  files: dict[str, list[tuple[str, pathlib.Path]]] = {}
  for name in _names(video.parent):
    if match := pattern.fullmatch(name):
      files.setdefault((match[1] or "").lower(), []).append((match[2].lower(), video.parent / name))
  for key in (language.lower(), "") if language else ("",):
    if key in files:
      return max(files[key])[1]  # .vtt before .srt
  if language or not files:
    return None
  if len(files) > 1:
    raise SubtitleError(
      f"{video}: subtitles of several languages ({', '.join(sorted(files))}); choose one with --language=CODE"
    )
  return max(next(iter(files.values())))[1]


@functools.lru_cache(64)
def _names(folder: pathlib.Path) -> tuple[str, ...]:
  """Returns the names of the subtitle files in a folder, which is listed once."""
  if storage.is_remote(folder):
    names = (name for name in storage.list_names(storage.absolute(folder)) if "/" not in name)
    return tuple(name for name in names if name.lower().endswith(tuple(SUFFIXES)))
  if not folder.is_dir():
    return ()
  return tuple(sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES))


def read_subtitles(path: pathlib.Path) -> list[Word]:
  """Reads a subtitle file as words in the order of time. Markup and sounds such as [Music] are removed.

  Words have the times of the file where it has them, as automatic captions do; otherwise the time of their cue is
  divided in proportion to their lengths.

  Raises:
    SubtitleError: the file is unreadable, not UTF-8, not of the format of its suffix, or a time is invalid.
  """
  try:
    if path.stat().st_size > _MAX_BYTES:
      raise SubtitleError(f"{path}: more than {_MAX_BYTES} bytes, which is no subtitle file; remove it")
    text = path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise SubtitleError(f"{path}: not UTF-8 ({error}); re-encode the file") from error
  except OSError as error:
    raise SubtitleError(f"{path}: cannot be read ({error.strerror})") from error
  lines = text.splitlines()
  if path.suffix.lower() == ".vtt":
    if not lines or not lines[0].startswith("WEBVTT"):
      raise SubtitleError(f"{path}: the first line is not WEBVTT; rename the file if it is SubRip (.srt)")
    if any(line.startswith(_STREAM_TIMES) for line in lines):
      raise SubtitleError(f"{path}: times are those of a stream ({_STREAM_TIMES}); convert it to a file of its own")
  cues = sorted(_read_cues(lines, path), key=lambda cue: cue.start)
  if not cues and any(line.strip() for line in lines[path.suffix.lower() == ".vtt" :]):
    raise SubtitleError(f"{path}: no line START {_ARROW} END; check that it is a subtitle file")
  return list(_words(cues))


def _read_cues(lines: Sequence[str], path: pathlib.Path) -> Iterator[_Cue]:
  """Yields the cues: blocks of lines, separated by empty ones, of which one has the times."""
  block: list[tuple[int, str]] = []
  is_vtt = path.suffix.lower() == ".vtt"  # in which a line of spaces is not empty
  for number, line in enumerate([*lines, ""], 1):
    if line if is_vtt else line.strip():
      block.append((number, line))
      continue
    times = next((i for i, (_, text) in enumerate(block[:2]) if _ARROW in text), None)
    if times is not None and not block[0][1].startswith(_VTT_BLOCKS):
      where = f"{path}, line {block[times][0]}"
      yield _Cue(*_parse_times(block[times][1], where), [text for _, text in block[times + 1 :]])
    block = []


def _parse_times(line: str, where: str) -> tuple[float, float]:
  start_text, _, rest = line.partition(_ARROW)
  words = rest.split()  # settings of WebVTT follow
  start, end = parse_time(start_text.strip()), parse_time(words[0]) if words else None
  if start is None or end is None:
    raise SubtitleError(f"{where}: expected HH:MM:SS.mmm {_ARROW} HH:MM:SS.mmm, got {printable(line, 60)!r}")
  if end < start:
    raise SubtitleError(f"{where}: the end {end:g} s is before the start {start:g} s; correct the times")
  return start, end


def _words(cues: Sequence[_Cue]) -> Iterator[Word]:
  """Yields the words of cues. Automatic captions show each line twice: while it is spoken, and above the next one."""
  is_automatic = any(_WORD_TIME.search(line) for cue in cues for line in cue.lines)
  shown: list[str] = []
  for cue in cues:
    lines = [line for line in cue.lines if not (is_automatic and _plain(line) in shown)]
    shown = [_plain(line) for line in cue.lines]
    yield from _timed_words(" ".join(lines), cue)


def _timed_words(text: str, cue: _Cue) -> Iterator[Word]:
  """Yields the words of a cue; each inline time is that at which the next words begin."""
  first, *rest = _WORD_TIME.split(text)
  pieces = [(cue.start, first)]
  for time, words in zip(rest[::2], rest[1::2], strict=True):
    pieces.append((min(max(parse_time(time) or 0.0, pieces[-1][0]), cue.end), words))
  pieces = [(start, words) for start, words in pieces if _plain(words)]
  for (start, words), (end, _) in itertools.pairwise([*pieces, (cue.end, "")]):
    yield from spread_words(_plain(words), start, end)


def _plain(text: str) -> str:
  return " ".join(_SOUNDS.sub(" ", html.unescape(_MARKUP.sub("", text))).split())
