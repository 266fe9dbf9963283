"""Sizes in containers: complete, truncated and hostile files."""

import pathlib

import numpy as np
import pytest
from videos import MOVIE_OPTIONS, MOVIES, write_named_movie

from clipvip_jax.input_pipeline.container_extent import read_extent

FORMATS = {
  ".mp4": "mov,mp4,m4a,3gp,3g2,mj2",
  ".mkv": "matroska,webm",
  ".webm": "matroska,webm",
  ".wmv": "asf",
  ".ogv": "ogg",
}


def extent(path):
  return read_extent(path, FORMATS.get(path.suffix, path.suffix[1:]))


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
  folder = tmp_path_factory.mktemp("movies")
  return {name: write_named_movie(folder, name) for name in (*MOVIES, *MOVIE_OPTIONS)}


@pytest.mark.parametrize("name", [*MOVIES, *MOVIE_OPTIONS])
def test_a_file_is_truncated_wherever_it_is_cut(movies, name, tmp_path):
  content = movies[name].read_bytes()
  complete = extent(movies[name])
  assert not complete.truncated and complete.size == len(content)
  assert complete.verifiable == (name not in ("live.mkv", "sound.flv")), "these two have no end mark"
  assert complete.states_duration == (name not in ("fragmented.mp4", "indexed.mp4", "silent.gif", "sound.ogv"))
  for fraction in (0.3, 0.45, 0.6, 0.75, 0.9):
    cut = tmp_path / name
    cut.write_bytes(content[: int(fraction * len(content))])
    assert extent(cut).truncated, fraction


def test_a_file_that_is_cut_between_its_elements_is_unverifiable(movies, tmp_path):
  content = movies["fragmented.mp4"].read_bytes()
  cut = tmp_path / "fragmented.mp4"
  cut.write_bytes(content[: content.index(b"moof", len(content) // 2) - 4])
  assert not extent(cut).truncated and not extent(cut).verifiable
  content = movies["sound.ogv"].read_bytes()
  cut = tmp_path / "sound.ogv"
  cut.write_bytes(content[: content.index(b"OggS", len(content) // 2)])
  assert not extent(cut).truncated and not extent(cut).verifiable


def test_an_index_of_fragments_reveals_a_cut_between_them(movies, tmp_path):
  content = movies["indexed.mp4"].read_bytes()
  cut = tmp_path / "indexed.mp4"
  cut.write_bytes(content[: content.index(b"moof", len(content) // 2) - 4])
  assert extent(cut).truncated


def test_fragments_after_bytes_that_are_no_box_are_missed(movies, tmp_path):
  """FFmpeg stops there."""
  content = movies["fragmented.mp4"].read_bytes()
  box = content.index(b"moof", len(content) // 2)
  spoiled = tmp_path / "fragmented.mp4"
  spoiled.write_bytes(content[: box - 4] + b"\xa5" * 600 + content[box + 596 :])
  assert extent(spoiled).truncated
  last = content.rindex(b"moof") - 4
  spoiled.write_bytes(content[:last] + b"\xa5" * (len(content) - last))
  assert not extent(spoiled).truncated, "bytes that are no part of the video may follow it"


@pytest.mark.parametrize("size", [8, 99])
def test_a_box_of_a_vendor_between_fragments_is_skipped(movies, tmp_path, size):
  content = movies["fragmented.mp4"].read_bytes()
  fragment = content.index(b"moof", len(content) // 2) - 4
  longer = tmp_path / "fragmented.mp4"
  longer.write_bytes(content[:fragment] + size.to_bytes(4, "big") + b"vndr".ljust(size - 4, b"x") + content[fragment:])
  assert not extent(longer).truncated


@pytest.mark.parametrize("name", ["sound.mkv", "sound.avi", "sound.wmv", "fast.mp4", "silent.gif"])
def test_bytes_after_the_last_element_are_ignored(movies, name, tmp_path):
  longer = tmp_path / name
  for junk in (bytes(99), b"junk" * 40, b"\xff" * 40):
    longer.write_bytes(movies[name].read_bytes() + junk)
    assert not extent(longer).truncated


def test_formats_without_sizes_are_unverifiable(movies):
  for name in ("mpegts", "mpeg", "h264", "unknown"):
    complete = read_extent(movies["sound.mkv"], name)
    assert not complete.truncated and not complete.verifiable


@pytest.mark.parametrize("name", [*MOVIES, *MOVIE_OPTIONS])
def test_corrupt_files_have_some_extent(movies, name, tmp_path):
  """Flipped bytes may say anything about the size, but never raise, hang or exhaust memory."""
  random, content = np.random.default_rng(0), movies[name].read_bytes()
  path = tmp_path / name
  for _ in range(30):
    corrupt = bytearray(content[: random.integers(1, len(content))])
    for place in random.integers(0, min(len(corrupt), 2000), 20):
      corrupt[place] = random.choice([0, 1, 0x7F, 0xFF, random.integers(256)])
    path.write_bytes(corrupt)
    assert extent(path).size == len(corrupt)


@pytest.mark.parametrize(
  ("suffix", "content"),
  [
    (".mp4", b"\0\0\0\1mdat" + b"\xff" * 8),  # a box of 2^64 bytes
    (".mp4", b"\0\0\0\0moof"),
    (".mp4", b"\0\0\0\4free"),  # smaller than its header
    (".mp4", b"\0\0\0\x20sidx\1" + b"\xff" * 40),
    (".mkv", bytes.fromhex("1a45dfa380 18538067 01ffffffffffffff 1f43b675ff") + b"\xe7\x80" * 1000),
    (".mkv", bytes(40)),
    (".avi", b"RIFF\0\0\0\0AVI "),
    (".avi", b"RIFF\xff\xff\xff\xffAVI "),
    (".wmv", bytes(99)),
    (".ogv", b"OggS"),
    (".gif", b"GIF89a"),
    (".flv", b"FLV\1\5\xff\xff\xff\xff"),
    (".flv", b"F"),
  ],
)
def test_hostile_headers_have_some_extent(tmp_path, suffix, content):
  path = pathlib.Path(tmp_path, f"hostile{suffix}")
  path.write_bytes(content)
  assert extent(path).size == len(content)
