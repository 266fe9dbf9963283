"""Structure of Ogg, MPEG program streams, Matroska, AVI and FLV: intact, with holes, repeated, flipped."""

import av
import pytest
from videos import MOVIES, write_movie, write_named_movie

from clipvip_jax.input_pipeline.container_structure import open_structure

NAMES = {
  "sound.mkv": "matroska,webm",
  "sound.webm": "matroska,webm",
  "sound.ogv": "ogg",
  "sound.mpg": "mpeg",
  "sound.avi": "avi",
  "sound.flv": "flv",
}


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
  folder = tmp_path_factory.mktemp("movies")
  sound = write_movie(folder / "sound.mpg", "mpeg2video", "mp2", codec_options={"b": "2M"}, container="vob")
  movies = {name: write_named_movie(folder, name) for name in NAMES if name in MOVIES} | {"sound.mpg": sound}
  return {name: path.read_bytes() for name, path in movies.items()}


def errors(folder, name, content, first=0):
  """Returns the errors that are not "", at the file's packets from a position on and at the end."""
  path = folder / name
  path.write_bytes(content)
  positions = [position for position in packet_positions(path) if position >= first] or [first]
  with open_structure(path, NAMES.get(name, name)) as structure:
    return [error for error in (*map(structure.error_at, positions), structure.error_at_end()) if error]


def packet_positions(path):
  with av.open(str(path)) as container:
    return [packet.pos for packet in container.demux() if packet.size and packet.pos is not None]


@pytest.mark.parametrize("name", NAMES)
def test_an_intact_file_has_no_error(movies, tmp_path, name):
  content = movies[name]
  for first in (0, len(content) // 3, len(content) // 2):
    assert not errors(tmp_path, name, content, first)


def chunk(kind, size):
  return kind + size.to_bytes(4, "little") + bytes(range(1, 1 + size))


def avi_errors(tmp_path, chunks, ending=b""):
  content = b"".join(chunks) + ending
  path = tmp_path / "x.avi"
  path.write_bytes(content)
  with open_structure(path, "avi") as structure:
    return [error for error in (structure.error_at(8), structure.error_at_end()) if error]


@pytest.mark.parametrize("size", [65, 67, 121])
@pytest.mark.parametrize("padding", [b"", b"\0", b"J"])
def test_chunks_of_odd_sizes_may_lack_padding(tmp_path, size, padding):
  """The low byte of the size is a letter."""
  assert not avi_errors(tmp_path, [chunk(kind, size) + padding for kind in (b"00dc", b"01wb") * 3])


@pytest.mark.parametrize("last", [b"00dc", b"ix00", b"JUNK"])
def test_bytes_after_the_last_chunk_are_no_error(tmp_path, last):
  chunks = [chunk(b"00dc", 64)] * 3 + [chunk(last, 32)]
  assert not avi_errors(tmp_path, chunks, bytes(300))
  assert avi_errors(tmp_path, [*chunks, bytes(300), *chunks]), "not the last one"


@pytest.mark.parametrize("damage", ["zeros", "missing", "repeated"])
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_found(movies, tmp_path, name, damage):
  content, size = movies[name], 4000
  for fraction in (0.35, 0.5, 0.65):
    place = int(fraction * len(content))
    hole = content[place : place + size]
    middle = {"zeros": bytes(size), "missing": b"", "repeated": hole + hole}[damage]
    spoiled = content[:place] + middle + content[place + size :]
    found = errors(tmp_path, name, spoiled)
    if damage == "zeros" and name in ("sound.webm", "sound.ogv") and not found:
      continue  # within a cluster without a checksum, or a page, whose checksum FFmpeg verifies
    assert found, fraction
    assert found[0].startswith("data are missing, repeated or corrupt after byte")
    if fraction == 0.35:
      assert not errors(tmp_path, name, spoiled, int(0.95 * len(spoiled))), "nothing before the position is read"


def test_a_flipped_bit_in_a_cluster_with_a_checksum_is_an_error_of_all_its_blocks(movies, tmp_path):
  content = bytearray(movies["sound.mkv"])
  clusters = [place for place in range(len(content)) if content[place : place + 4] == b"\x1f\x43\xb6\x75"]
  content[clusters[2] + 999] ^= 4
  path = tmp_path / "x.mkv"
  path.write_bytes(content)
  with open_structure(path, "matroska,webm") as structure:
    found = [structure.error_at(place + offset) for place in clusters for offset in (20, 900, 1100)]
    assert [bool(error) for error in found] == [index // 3 == 2 for index in range(len(found))]
    assert not structure.error_at_end()


def test_pages_of_a_lost_range_are_missed_although_those_around_it_are_intact(movies, tmp_path):
  content = movies["sound.ogv"]
  pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
  first, last = pages[len(pages) // 2], pages[len(pages) // 2 + 1]
  assert errors(tmp_path, "sound.ogv", content[:first] + content[last:])


def test_a_repeated_pack_is_an_error_and_a_second_recording_is_not(movies, tmp_path):
  content = movies["sound.mpg"]
  assert errors(tmp_path, "sound.mpg", content[:8192] + content[6144:])
  assert not errors(tmp_path, "sound.mpg", content + content)
  assert not errors(tmp_path, "sound.mpg", content + bytes(100))
  sectors = b"".join(content[i : i + 2048] + b"sector" for i in range(0, len(content), 2048))
  assert not errors(tmp_path, "sound.mpg", sectors), "as on a Video CD"


@pytest.mark.parametrize("name", ["mov,mp4,m4a,3gp,3g2,mj2", "gif"])
def test_other_containers_are_not_checked(tmp_path, name):
  path = tmp_path / "x"
  path.write_bytes(b"anything")
  with open_structure(path, name) as structure:
    assert structure is None


@pytest.mark.parametrize("name", NAMES)
def test_files_without_the_structure_have_no_error_or_one(tmp_path, name):
  matroska = bytes.fromhex("1a45dfa380 1853806784 1f43b67584")
  for content in (b"", bytes(99), b"\xff" * 99, b"\0\0\1\xba" * 9, b"OggS" * 9, b"00dc" * 9, matroska):
    (tmp_path / "x").write_bytes(content)
    with open_structure(tmp_path / "x", NAMES[name]) as structure:
      found = [structure.error_at(position) for position in (0, 8, 50)] + [structure.error_at_end()]
    assert all(isinstance(error, str) for error in found)
