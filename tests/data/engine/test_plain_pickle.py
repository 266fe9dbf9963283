"""Pickles of captions: every protocol, nothing executed, and hostile files."""

import collections
import os
import pickle
import pickletools

import pytest
from etils import epath

from clipvip_jax.data.engine.plain_pickle import read_plain_pickle
from clipvip_jax.utils.errors import UserError

CAPTIONS = {
  "-4wsuPCjDBc_5_15": [["a", "squirrel", "is", "eating"], ["ein", "Eichhörnchen", "松鼠"]],
  "long": [[f"word{number}" for number in range(2500)]],
  "numbers": [0, 255, 70_000, -3, 2**70, 1.5, True, False, None],
  "tuples": [(), ("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")],
}


def read(tmp_path, program):
  (tmp_path / "captions.pkl").write_bytes(program)
  return read_plain_pickle(epath.Path(tmp_path / "captions.pkl"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_what_python_writes(tmp_path, protocol):
  assert read(tmp_path, pickle.dumps(CAPTIONS, protocol)) == CAPTIONS
  assert read(tmp_path, pickletools.optimize(pickle.dumps(CAPTIONS, protocol))) == CAPTIONS


def test_reads_texts_of_python_2(tmp_path):
  """As Python 2.7 wrote {"id": [["a", "Ei\\xc3\\xa4"]]} in protocols 0 and 2."""
  assert read(tmp_path, b"(dp0\nS'id'\np1\n(lp2\n(lp3\nS'a'\np4\naS'b'\np5\naas.") == {"id": [["a", "b"]]}
  program = b"\x80\x02}q\x00U\x02idq\x01]q\x02]q\x03(U\x01aq\x04U\x04Ei\xc3\xa4q\x05eas."
  assert read(tmp_path, program) == {"id": [["a", "Eiä"]]}


class Harmful:
  def __reduce__(self):
    return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_executes_nothing(tmp_path, monkeypatch, protocol):
  monkeypatch.chdir(tmp_path)
  words = r"captions.pkl: contains the opcode (STACK_)?GLOBAL posix.mkdir, which texts do not need"
  with pytest.raises(UserError, match=words) as refused:
    read(tmp_path, pickle.dumps({"id": Harmful()}, protocol))
  assert "nothing was executed" in str(refused.value) and "\n" not in str(refused.value)
  assert not (tmp_path / "executed").exists()


def test_refuses_other_types_by_name(tmp_path):
  with pytest.raises(UserError, match=r"collections.OrderedDict, which texts do not need; nothing was executed. Use a"):
    read(tmp_path, pickle.dumps(collections.OrderedDict(a=1)))
  with pytest.raises(UserError, match="opcode SHORT_BINBYTES"):
    read(tmp_path, pickle.dumps({"id": b"bytes"}))


DEEP = b"]" * 100_000 + b"a" * 99_999 + b"."  # lists within lists
REPEATED = b"(" + b"X\xe8\x03\x00\x00" + b"x" * 1000 + b"q\x00" + b"h\x00" * 5000 + b"l."
DOUBLED = b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60)) + b"."
GROWING = b"]q\x00](" + b"h\x00" * 2000 + b"eq\x01h\x00(" + b"K\x01" * 2000 + b"eh\x01."  # shared while empty
CYCLE = b"]q\x00h\x00a."


@pytest.mark.parametrize("program", [REPEATED, DOUBLED, GROWING, CYCLE])
def test_refuses_values_that_explode(tmp_path, program):
  with pytest.raises(UserError, match="take more than 64 times the size of the file"):
    read(tmp_path, program)


def test_deep_nesting_is_no_danger(tmp_path):
  value, depth = read(tmp_path, DEEP), 1
  while value:
    value, depth = value[0], depth + 1
  assert depth == 100_000


@pytest.mark.parametrize(
  ("program", "words"),
  [
    (pickle.dumps(CAPTIONS)[:-40], "corrupt, or not a pickle of texts"),
    (b"", "corrupt"),
    (b"no pickle at all", "corrupt"),
    (b"h\x00.", "corrupt"),
    (b"(e.", "corrupt"),
    (b"K\x01K\x02a.", "adds items to what is not a list"),
    (b"]K\x01K\x02s.", "adds items to what is not a dict"),
    (b"}K\x01K\x02s.", "a key is not a text"),
    (b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.", "the key 'a' occurs twice"),
    (b"\x80\x04X\xff\xff\xff\x7fabc.", "corrupt"),
    (b"r\xff\xff\xff\x7f.", "corrupt"),
  ],
)
def test_refuses_corrupt_files(tmp_path, program, words):
  with pytest.raises(UserError, match=rf"captions\.pkl: .*{words}") as refused:
    read(tmp_path, program)
  assert "\n" not in str(refused.value)
