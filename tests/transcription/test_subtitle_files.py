"""Subtitle files: formats, word times of automatic captions, languages, and corrupt ones."""

import codecs
import gzip
import itertools
import lzma

import pytest

from clipvip_jax.transcription.subtitle_files import find_subtitles, read_subtitles
from clipvip_jax.utils.errors import UserError

SRT = """1
00:00:01,000 --> 00:00:03,000
<i>Hello</i> there.

2
00:00:03,500 --> 00:00:05,000 X1:1 X2:2
{\\an8}How are
you &amp; yours?

3
00:01:00,000 --> 00:01:01,000
[Music] ♪

"""
VTT = """WEBVTT - a title
Kind: captions

NOTE a comment
00:00:00.000 --> 00:00:01.000

STYLE
::cue { color: red }

intro
00:01.000 --> 00:03.000 align:start position:0%
<v Bob><c.red>Hello</c> there.</v>

00:00:03.500 --> 00:00:05.000
How are
you &amp; yours?
"""
AUTOMATIC = """WEBVTT

00:00:00.000 --> 00:00:02.000 align:start
 
hello<00:00:00.500><c> to</c><00:00:01.000><c> all</c>

00:00:02.000 --> 00:00:02.010
hello to all
 

00:00:02.010 --> 00:00:04.000
hello to all
of<00:00:02.500><c> you</c>

00:00:04.000 --> 00:00:04.010
of you
 

00:00:04.010 --> 00:00:05.000
of you
bye
"""  # noqa: W293  # as YouTube writes them


def write(folder, name, text):
  (folder / name).write_text(text, encoding="utf-8")
  return folder / name


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT), ("a.vtt", VTT), ("A.SRT", SRT.replace("\n", "\r\n"))])
def test_reads_text_and_times(tmp_path, name, text):
  words = read_subtitles(write(tmp_path, name, "\ufeff" + text))
  assert " ".join(word.text for word in words) == "Hello there. How are you & yours?"
  assert (words[0].start, words[1].end, words[2].start, words[-1].end) == (1.0, 3.0, 3.5, 5.0)
  assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(words))


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT.replace("there", "déjà")), ("a.vtt", VTT)])
def test_utf16_with_its_mark_is_read(tmp_path, name, text, mark):
  (tmp_path / name).write_bytes(mark + text.encode("utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"))
  assert read_subtitles(tmp_path / name) == read_subtitles(write(tmp_path, f"utf8_{name}", text))


@pytest.mark.parametrize(
  ("times", "expected"),
  [
    ("00:00:01, 000 --> 00:00:02, 500", (1.0, 2.5)),
    ("00: 00: 01 ,000-->00: 00: 02.500", (1.0, 2.5)),
    ("-00:00:01,000 --> 00:00:02,500", (0.0, 2.5)),
    ("00:00:-01,000 --> 00:00:02,500", (0.0, 2.5)),
    ("-00:00:02,000 --> -00:00:01,000", None),
  ],
)
def test_times_with_spaces_or_before_the_start(tmp_path, times, expected):
  words = read_subtitles(write(tmp_path, "a.srt", f"1\n{times}\nHello\n\n2\n00:00:03,000 --> 00:00:04,000\nthere\n"))
  assert [(word.start, word.end) for word in words if word.text == "Hello"] == ([expected] if expected else [])
  assert words[-1].text == "there"


def test_automatic_captions_are_read_once_with_the_times_of_words(tmp_path):
  words = read_subtitles(write(tmp_path, "a.vtt", AUTOMATIC))
  assert [(word.text, word.start) for word in words] == [
    ("hello", 0.0), ("to", 0.5), ("all", 1.0), ("of", 2.01), ("you", 2.5), ("bye", 4.01)
  ]  # fmt: skip
  assert words[0].end == 0.5 and words[2].end == 2.0


def _srt(*cues):
  return "\n".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i + 1},000\n{text}\n" for i, text in enumerate(cues, 1))


@pytest.mark.parametrize(
  "text",
  [
    _srt("\r\nhello to all", "hello to all\r\n ", "hello to all\r\nof you", "of you\r\n ", "of you\r\nbye"),
    _srt("hello to", "hello to\nall", "hello to\nall\nof you", "all\nof you\nbye"),  # roll-up captions of broadcasts
  ],
)
def test_rolling_captions_without_times_of_words_are_read_once(tmp_path, text):
  words = read_subtitles(write(tmp_path, "a.srt", text))
  assert " ".join(word.text for word in words) == "hello to all of you bye"


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("1\n00:00:01,000 --> 00:00:02,000\nHello\n2\n00:00:02,000 --> 00:00:03,000\nthere\n", "Hello there"),
    ("00:00:01,000 --> 00:00:02,000\nHello\n00:00:02,000 --> 00:00:03,000\nthere\n", "Hello there"),
    ("1\n00:00:01,000 --> 00:00:02,000\nHello\n\nthere\n\n2\n00:00:02,000 --> 00:00:03,000\n2\n", "Hello there 2"),
    (
      "1\n00:00:01,000 --> 00:00:02,000\nA --> B\n\n2\n00:00:02,000 --> 00:00:03,000\nC# and # la #\n",
      "A --> B C# and la",
    ),
  ],
)
def test_subrip_with_missing_or_additional_empty_lines(tmp_path, text, words):
  assert " ".join(word.text for word in read_subtitles(write(tmp_path, "a.srt", text))) == words


@pytest.mark.parametrize("names", [["v.srt.gz"], ["v.ass", "v.en.vtt.xz"]])
def test_subtitle_files_that_are_not_read_are_named(tmp_path, caplog, names):
  for name in names:
    (tmp_path / name).touch()
  assert find_subtitles(tmp_path / "v.mp4") is None
  assert f"ignored {len(names)} subtitle files, first {names[0]}: decompress them, or convert them" in caplog.text


def test_repeated_lines_of_other_subtitles_are_kept(tmp_path):
  text = "1\n00:00:00,000 --> 00:00:01,000\nNo.\n\n2\n00:00:01,000 --> 00:00:02,000\nNo.\n"
  assert [word.text for word in read_subtitles(write(tmp_path, "a.srt", text))] == ["No.", "No."]


def test_cues_are_sorted(tmp_path):
  text = "1\n00:00:05,000 --> 00:00:06,000\nlate\n\n2\n00:00:01,000 --> 00:00:02,000\nearly\n"
  assert [word.text for word in read_subtitles(write(tmp_path, "a.srt", text))] == ["early", "late"]


@pytest.mark.parametrize(
  ("name", "text", "words"),
  [
    ("a.srt", SRT.replace("♪", "déjà").encode("cp1252"), "not utf-8 .*convert it .*iconv -f WINDOWS-1252"),
    ("a.vtt", VTT.replace("there", "да").encode("cp1251"), "not utf-8 .*convert it .*iconv -f WINDOWS-1252"),
    ("a.srt", SRT.encode("utf-16-le"), "zero bytes.*iconv -f UTF-16LE"),
    ("a.srt", SRT.encode("utf-32"), "zero bytes"),
    ("a.srt", b"\xff\xfe1\0\n", "not utf-16-le .*corrupt; restore it"),
    ("a.srt", gzip.compress(SRT.encode(), mtime=0), r"compressed \(gzip\); decompress it"),
    ("a.vtt", lzma.compress(VTT.encode()), r"compressed \(xz\); decompress it"),
    ("a.vtt", b"1\n00:00:00,000 --> 00:00:01,000\nx\n", "the first line is not WEBVTT"),
    ("a.vtt", b"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000\n", "times are those of a stream"),
    ("a.srt", b"1\n00:00:01,000 --> later\nx\n", r"line 2: expected HH:MM:SS.mmm --> .*, got '00:00:01,000 --> later'"),
    ("a.srt", b"1\n00:00:01,000 -->\nx\n", "line 2: expected"),
    ("a.srt", b"1\n00:00:02,000 --> 00:00:01,000\nx\n", "line 2: the end 1 s is before the start 2 s"),
    ("a.srt", b"<html>not found</html>", "no line START --> END"),
  ],
)
def test_rejects_corrupt_files(tmp_path, name, text, words):
  (tmp_path / name).write_bytes(text)
  with pytest.raises(UserError, match=words) as refused:
    read_subtitles(tmp_path / name)
  assert str(refused.value).startswith(str(tmp_path / name)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("files", "language", "expected"),
  [
    (["v.srt"], "", "v.srt"),
    (["v.srt", "v.vtt"], "", "v.vtt"),
    (["v.en.vtt"], "", "v.en.vtt"),
    (["v.en.vtt", "v.de.vtt"], "de", "v.de.vtt"),
    (["v.en-US.vtt", "v.vtt"], "", "v.vtt"),
    (["v.srt", "v.en.vtt"], "en", "v.en.vtt"),
    (["v.srt", "v.en.vtt"], "de", "v.srt"),
    (["v.en.vtt"], "de", None),
    (["w.vtt", "v.txt", "v.long.name.vtt"], "", None),
  ],
)
def test_finds_the_file_of_a_video(tmp_path, files, language, expected):
  for name in files:
    (tmp_path / name).touch()
  found = find_subtitles(tmp_path / "v.mp4", language)
  assert (found and found.name) == expected


def test_several_languages_are_refused(tmp_path):
  for name in ("v.en.vtt", "v.de.vtt"):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match=r"several languages \(de, en\); choose one with --language"):
    find_subtitles(tmp_path / "v.mp4")
