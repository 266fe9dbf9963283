"""Files of JSON lines: what resumes, what is shared among machines, and what is refused."""

import json
import subprocess
import sys

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.json_shards import JsonShards, Part

HEADER = {"model": "m", "clips": "abc"}


def shards(folder, num_items=10, header=HEADER, items_per_file=3):
  return JsonShards(folder, "captions", header, num_items, items_per_file)


def rows(output, number):
  return [{"id": str(item), "caption": "é\u2028"} for item in output.items(number)]


def test_rows_are_read_back_with_the_header_first(tmp_path):
  output = shards(tmp_path / "new")
  with output.locked():
    for number in output.files():
      output.write(number, rows(output, number))
  assert [output.read(number) for number in range(4)] == [rows(output, number) for number in range(4)]
  assert [path.name for path in sorted((tmp_path / "new").glob("*.jsonl"))][-1] == "captions-00003-of-00004.jsonl"
  assert json.loads(output.path(0).read_text().split("\n")[0]) == {"header": HEADER}


@pytest.mark.parametrize("num_items, count", [(10, 3), (1, 4), (100, 7), (9, 3)])
def test_parts_divide_the_files(tmp_path, num_items, count):
  output = shards(tmp_path, num_items)
  parts = [list(output.files(Part(index, count))) for index in range(1, count + 1)]
  assert [number for part in parts for number in part] == list(range(output.num_files))
  assert max(map(len, parts)) - min(map(len, parts)) <= 1
  assert [i for number in range(output.num_files) for i in output.items(number)] == list(range(num_items))


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "1/9999999", "٣/٤"])
def test_other_parts_are_refused(text):
  with pytest.raises(UserError, match=r"--shard=.* is not I/N with I from 1 to N: --shard=1/\d+ is the first"):
    Part.parse(text)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b'{"header": 1}\n', b"[1]\n", b'{"header"'])
def test_a_changed_file_is_incomplete(tmp_path, content):
  output = shards(tmp_path)
  assert output.read(1) is None
  output.write(1, rows(output, 1))
  data = output.path(1).read_bytes()
  for changed in (content, data[: len(data) // 2], data.rsplit(b"\n", 2)[0] + b"\n"):
    output.path(1).write_bytes(changed)
    assert output.read(1) is None


def test_files_of_another_header_or_list_are_refused(tmp_path):
  output = shards(tmp_path)
  output.write(0, rows(output, 0))
  with pytest.raises(UserError, match=r'00000-of-00004.jsonl was written with model="m", not "n"; pass another --out'):
    shards(tmp_path, header={**HEADER, "model": "n"}).read(0)
  other = shards(tmp_path, num_items=20)
  with pytest.raises(UserError, match="belongs to an output of 4 files, this one has 7"), other.locked():
    pass


def test_a_second_process_is_refused_only_on_the_same_files(tmp_path):
  command = (
    "import pathlib, sys; from clipvip_jax.utils.json_shards import *\n"
    "output = JsonShards(pathlib.Path(sys.argv[1]), 'captions', {}, 10, 3)\n"
    "with output.locked(Part.parse(sys.argv[2])): pass"
  )

  def other(part):
    done = subprocess.run([sys.executable, "-c", command, tmp_path, part], capture_output=True, text=True)
    return done.stderr

  with shards(tmp_path).locked(Part(1, 2)):
    assert other("2/2") == ""
    assert "another process writes these files" in other("1/2")
    assert "another process writes these files" in other("2/3")  # file 1 is of both
  assert other("1/2") == ""


def test_a_refused_write_leaves_no_file(tmp_path):
  output = shards(tmp_path / "absent")
  with pytest.raises(UserError, match="No such file or directory; complete files are kept"):
    output.write(0, rows(output, 0))
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is not a folder; name another one"), shards(tmp_path / "file").locked():
    pass
