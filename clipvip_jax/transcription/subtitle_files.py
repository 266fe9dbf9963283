"""Reads subtitle files: SubRip (.srt) and WebVTT (.vtt), with the word times of automatic captions."""

import codecs
import functools
import html
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipvip_jax.input_pipeline.media_error import file_error_reason
from clipvip_jax.transcription.words import Word, spread_words
from clipvip_jax.utils import storage, transfers
from clipvip_jax.utils.compression import START_BYTES, check_uncompressed
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.utils.timestamps import parse_time

SUFFIXES = (".vtt", ".srt")
# Compressed ones, and those of other formats, which FFmpeg converts.
_UNREAD = re.compile(r".*\.((vtt|srt)\.(gz|bz2|xz|zst|zip)|ass|ssa|sbv|ttml|dfxp|smi|srv[123])", re.IGNORECASE)
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONVERT = "convert it from its encoding, which is often {0}: iconv -f {0} -t UTF-8 FILE > NEW"
_ARROW = "-->"
_MAX_BYTES = 2**26
_TIMES = re.compile(rf"\s*-?\d[-\d:., ]*{_ARROW}\s*-?\d")
_SPACES = re.compile(r"(?<=\d)\s*([:.,])\s*(?=\d)")  # 00:00:01, 000, as some tools write it
_WORD_TIME = re.compile(r"<(\d[\d:.]*)>")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # tags, and the overrides of SubStation in .srt
_SOUNDS = re.compile(r"\[[^\[\]]*\]|(?<!\S)#{1,2}(?=\s|$)|[♪♫]")  # [Music], # sung #
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
  """Returns the names of the subtitle files in a folder, which is listed once; logs those that are not read."""
  if storage.is_remote(folder):
    names = [name for name in transfers.list_names(storage.absolute(folder)) if "/" not in name]
  else:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  if unread := sorted(name for name in names if _UNREAD.fullmatch(name)):
    log.warning(
      "%s: ignored %d subtitle files, first %s: decompress them, or convert them to .srt (ffmpeg -i FILE NAME.srt)",
      *(folder, len(unread), printable(unread[0])),
    )
  return tuple(sorted(name for name in names if name.lower().endswith(SUFFIXES)))


def read_subtitles(path: pathlib.Path) -> list[Word]:
  """Reads a subtitle file as words in the order of time. Markup and sounds such as [Music] are removed.

  Words have the times of the file where it has them, as automatic captions do; otherwise the time of their cue is
  divided in proportion to their lengths.

  Raises:
    SubtitleError: the file is unreadable, neither UTF-8 nor UTF-16 with a mark, not of the format of its suffix, or a
      time is invalid.
  """
  try:
    if path.stat().st_size > _MAX_BYTES:
      raise SubtitleError(f"{path}: more than {_MAX_BYTES} bytes, which is no subtitle file; remove it")
    content = path.read_bytes()
    check_uncompressed(content[:START_BYTES], path)
    # UTF-16 is certain by its mark alone.
    text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    if "\0" in text[:4]:
      raise SubtitleError(f"{path}: not UTF-8 (zero bytes); {_CONVERT.format('UTF-16LE')}")
  except UnicodeDecodeError as error:
    reason = f"not {error.encoding} ({error.reason} at byte {error.start})"
    advice = _CONVERT.format("WINDOWS-1252") if error.encoding == "utf-8" else "the file is corrupt; restore it"
    raise SubtitleError(f"{path}: {reason}; {advice}") from error
  except UserError as error:  # the run continues without the video
    raise SubtitleError(str(error)) from error
  except OSError as error:
    raise SubtitleError(f"{path}: cannot be read ({file_error_reason(error)})") from error
  lines = text.splitlines()
  if path.suffix.lower() == ".vtt":
    if not lines or not lines[0].startswith("WEBVTT"):
      raise SubtitleError(f"{path}: the first line is not WEBVTT; rename the file if it is SubRip (.srt)")
    if any(line.startswith(_STREAM_TIMES) for line in lines):
      raise SubtitleError(f"{path}: times are those of a stream ({_STREAM_TIMES}); convert it to a file of its own")
  cues = sorted(_read_cues(lines, path), key=lambda cue: cue.start)
  if not cues and any(line.strip() for line in lines[path.suffix.lower() == ".vtt" :]):
    raise SubtitleError(f"{path}: no line START {_ARROW} END; check that it is a subtitle file")
  return list(_words([cue for cue in cues if cue.end > 0]))


def _read_cues(lines: Sequence[str], path: pathlib.Path) -> Iterator[_Cue]:
  """Yields the cues: a line of times, and the text up to the next one.

  An empty line ends a cue of WebVTT, but may be part of one of SubRip. Some files have none between cues.
  """
  is_vtt = path.suffix.lower() == ".vtt"  # in which a line of spaces is not empty
  cue: _Cue | None = None
  block: list[str] = []  # lines since the last empty one
  for number, line in enumerate(lines, 1):
    if not (line if is_vtt else line.strip()):
      if cue is not None and is_vtt:
        yield cue
        cue = None
      block = []
      continue
    block.append(line)
    if is_vtt and block[0].startswith(_VTT_BLOCKS):
      continue
    if _is_times(block):
      if cue is not None:
        if cue.lines and (len(block) == 2 or (len(block) > 2 and block[-2].strip().isdecimal())):
          cue.lines.pop()  # the number of the next cue
        yield cue
      cue = _Cue(*_parse_times(line, f"{path}, line {number}"), [])
    elif cue is not None:
      cue.lines.append(line)
  if cue is not None:
    yield cue


def _is_times(block: Sequence[str]) -> bool:
  """Returns whether the last line of a block has times, valid or not; an arrow may also be part of a text."""
  *before, line = block
  return _ARROW in line and (bool(_TIMES.match(line)) or (len(before) < 2 and not any(_ARROW in b for b in before)))


def _parse_times(line: str, where: str) -> tuple[float, float]:
  start_text, _, rest = _SPACES.sub(r"\1", line).partition(_ARROW)
  words = rest.split()  # settings of WebVTT follow
  start, end = _parse_time(start_text.strip()), _parse_time(words[0]) if words else None
  if start is None or end is None:
    raise SubtitleError(f"{where}: expected HH:MM:SS.mmm {_ARROW} HH:MM:SS.mmm, got {printable(line, 60)!r}")
  if end < start:
    raise SubtitleError(f"{where}: the end {end:g} s is before the start {start:g} s; correct the times")
  return start, end


def _parse_time(text: str) -> float | None:
  """Returns seconds; 0 for those before the video starts, to which a shift moves the first cues."""
  time = parse_time(text.replace("-", "", 1))
  return 0.0 if time is not None and "-" in text else time


def _words(cues: Sequence[_Cue]) -> Iterator[Word]:
  """Yields the words of cues. Automatic captions show each line twice: while it is spoken, and above the next one."""
  is_rolling = _are_rolling(cues)
  shown: list[str] = []
  for cue in cues:
    lines = [line for line in cue.lines if not (is_rolling and _plain(line) in shown)]
    shown = [_plain(line) for line in cue.lines]
    yield from _timed_words(" ".join(lines), cue)


def _are_rolling(cues: Sequence[_Cue]) -> bool:
  """Returns whether cues repeat the lines of those before them, as automatic captions do, also converted to SubRip."""
  if any(_WORD_TIME.search(line) for cue in cues for line in cue.lines):
    return True
  texts = [[text for text in map(_plain, cue.lines) if text] for cue in cues]
  texts = [lines for lines in texts if lines]
  repeats = [after for before, after in itertools.pairwise(texts) if after[0] in before]
  return 2 * len(repeats) >= len(texts) - 1 and any(len(lines) > 1 for lines in repeats)


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
