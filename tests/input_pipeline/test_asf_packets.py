"""Packets of ASF files: intact, missing, repeated and corrupt."""

import numpy as np
import pytest
from videos import write_named_movie

from clipvip_jax.input_pipeline.asf_packets import check_packets, data_object
from clipvip_jax.input_pipeline.byte_file import OddStructureError, open_bytes


@pytest.fixture(scope="module")
def content(tmp_path_factory):
  return write_named_movie(tmp_path_factory.mktemp("asf"), "sound.wmv").read_bytes()


def checked(folder, content, position=0):
  """Returns (position of the first packet, size of packets, whether each is intact)."""
  path = folder / "x.wmv"
  path.write_bytes(content)
  with open_bytes(path) as file:
    ends, intact = zip(*check_packets(file, position), strict=True)
    return data_object(file)[0] + 50, ends[1] - ends[0], list(intact)


def test_intact_packets_continue_each_other_from_any_position(tmp_path, content):
  begin, size, intact = checked(tmp_path, content)
  assert all(intact) and len(intact) == 8
  for skipped in (1, 4.5):
    later = checked(tmp_path, content, begin + int(skipped * size))[2]
    assert all(later) and len(later) == len(intact) - int(skipped)


@pytest.mark.parametrize("damage", ["missing", "repeated", "zeros", "shifted"])
def test_damage_is_found_where_it_is(tmp_path, content, damage):
  begin, size, _ = checked(tmp_path, content)
  place = begin + 4 * size
  packet, rest = content[place : place + size], content[place + size :]
  middle = {
    "missing": b"",
    "repeated": packet + packet,
    "zeros": bytes(size),
    "shifted": packet[:512] + packet[600:],
  }
  spoiled = checked(tmp_path, content[:place] + middle[damage] + rest)[2]
  assert all(spoiled[:4]) and not all(spoiled[4:6]), "the packet or the one after it"


def test_numbers_that_are_irregular_from_the_start_are_no_damage(tmp_path, content):
  """Some writers do not count media objects by one."""
  begin, size, intact = checked(tmp_path, content)
  kept = [content[place : place + size] for place in range(begin, begin + len(intact) * size, 2 * size)]
  assert all(checked(tmp_path, content[:begin] + b"".join(kept))[2])


def test_hostile_packets_are_corrupt_or_odd(tmp_path, content):
  begin = checked(tmp_path, content)[0]
  random = np.random.default_rng(0)
  for _ in range(20):
    spoiled = bytearray(content)
    for place in random.integers(begin, len(content), 200):
      spoiled[place] = random.integers(256)
    assert not all(checked(tmp_path, bytes(spoiled))[2])
  for odd in (content[: begin - 60], bytes(99), content[:40]):
    with pytest.raises((OddStructureError, ValueError)):
      checked(tmp_path, odd)
