"""Weight files are untrusted: what is whole is read to the bit, what is not is refused in one line that names it."""

import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_zip as tz
from conftest import GOLDEN
from safetensors.numpy import load_file, save

from clipvip_jax.errors import UserError
from clipvip_jax.weights import safetensors_file, torch_file

ONE = tz.storage("0", 4)
FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}


@pytest.mark.parametrize(("reader", "name"), [(torch_file, "vip_tiny.pt"), (safetensors_file, "vip_tiny.safetensors")])
def test_a_published_file_is_read_bit_for_bit_without_a_copy(reader, name):
  found, expected = reader.read(GOLDEN / name), load_file(GOLDEN / "vip_tiny.safetensors")
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert found[key].dtype == value.dtype and not found[key].flags.writeable
    np.testing.assert_array_equal(found[key], value, key)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int64])
def test_other_types_are_read(tmp_path, dtype):
  array = np.arange(6).reshape(2, 3).astype(dtype)
  found = torch_file.read(tz.save(tmp_path / "x.pt", {"a": array}))
  assert found["a"].dtype == dtype
  np.testing.assert_array_equal(found["a"], array)


def test_transposed_shared_and_empty_tensors_are_read(tmp_path):
  items = {
    "t": tz.tensor(ONE, 0, (2, 2), (1, 2)),
    "part": tz.tensor(ONE, 1, (2,), (1,)),
    "scalar": tz.tensor(ONE, 3, (), ()),
    "none": tz.tensor(ONE, 0, (0, 5), (5, 1)),
  }
  found = torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping(items)), FOUR))
  np.testing.assert_array_equal(found["t"], [[0, 2], [1, 3]])
  np.testing.assert_array_equal(found["part"], [1, 2])
  assert found["scalar"] == 3 and found["none"].shape == (0, 5)


def test_a_training_checkpoints_state_dict_is_found(tmp_path):
  inner = tz.mapping({"a": tz.tensor(ONE, 0, (4,), (1,))})
  pkl = tz.stream(tz.mapping({"epoch": tz.number(3), "state_dict": inner}))
  assert list(torch_file.read(tz.archive(tmp_path / "x.pt", pkl, FOUR))) == ["a"]


def bad_tensor(*arguments, data=FOUR, store=ONE):
  return lambda path: tz.archive(path, tz.stream(tz.mapping({"a": tz.tensor(store, *arguments)})), data)


def pickled(pkl, data=FOUR):
  return lambda path: tz.archive(path, pkl, data)


def good(path):
  return bad_tensor(0, (4,), (1,))(path)


def edited(change):
  """A good file, its bytes changed."""

  def make(path):
    path.write_bytes(change(bytearray(good(path).read_bytes())))

  return make


def with_entries(*extra):
  return lambda path: tz.archive(path, tz.stream(tz.mapping({})), FOUR, extra=extra)


def twice(path):
  with pytest.warns(UserWarning, match="Duplicate"):
    tz.archive(path, tz.stream(tz.mapping({})), FOUR, extra=[("archive/data/0", b"x" * 16)])


def overlapping(path):
  """Two names in the directory for the same bytes."""
  tz.archive(path, tz.stream(tz.mapping({})), {"0": b"a" * 16, "1": b"b" * 16})
  data = bytearray(path.read_bytes())
  first, second = (data.rindex(name) - 46 for name in (b"archive/data/0", b"archive/data/1"))
  data[second + 42 : second + 46] = data[first + 42 : first + 46]
  path.write_bytes(data)


def flagged(path):
  good(path)
  data = bytearray(path.read_bytes())
  data[data.index(b"PK\x01\x02") + 8] |= 1
  path.write_bytes(data)


def inner_zip(path):
  good(path)
  with zipfile.ZipFile(path.with_name("outer"), "w") as file:
    file.writestr("archive/inner.pt", path.read_bytes())
  path.write_bytes(path.with_name("outer").read_bytes())


def pickle_is_a_zip(path):
  tz.archive(path, good(path).read_bytes(), FOUR)


CANARY = "touch canary"
TORCH = {
  "os.system": (pickled(tz.calls("os", "system", tz.text(CANARY))), "asks for os.system"),
  "posix.system": (pickled(tz.calls("posix", "system", tz.text(CANARY))), "posix.system"),
  "subprocess": (pickled(tz.calls("subprocess", "check_output", tz.text(CANARY))), "subprocess.check_output"),
  "eval": (pickled(tz.calls("builtins", "eval", tz.text("open('canary', 'w')"))), "builtins.eval"),
  "exec": (pickled(tz.calls("__builtin__", "exec", tz.text("open('canary', 'w')"))), "__builtin__.exec"),
  "open": (pickled(tz.calls("io", "open", tz.text("canary"), tz.text("w"))), "io.open"),
  "getattr": (pickled(tz.calls("builtins", "getattr", tz.text("a"), tz.text("b"))), "builtins.getattr"),
  "partial": (pickled(tz.calls("functools", "partial", tz.text("a"))), "functools.partial"),
  "importlib": (pickled(tz.calls("importlib", "import_module", tz.text("os"))), "importlib.import_module"),
  "numpy": (pickled(tz.calls("numpy.core.multiarray", "_reconstruct")), "numpy.core.multiarray._reconstruct"),
  "torch.load": (pickled(tz.calls("torch", "load", tz.text("x"))), "torch.load"),
  "torch.hub": (pickled(tz.calls("torch.hub", "load", tz.text("x"))), "torch.hub.load"),
  "ours": (pickled(tz.calls("clipvip_jax.weights.torch_file", "_load")), "clipvip_jax.weights.torch_file._load"),
  "protocol 4": (pickled(tz.protocol_4("os", "system", CANARY)), "os.system"),
  "dotted name": (pickled(tz.protocol_4("collections", "OrderedDict.fromkeys", "a")), "OrderedDict.fromkeys"),
  "extension": (pickled(b"\x80\x02\x82\x01)R."), "damaged"),
  "instance": (pickled(b"\x80\x02(" + tz.text(CANARY) + b"ios\nsystem\n."), "os.system"),
  "new object": (pickled(b"\x80\x02" + tz.named("collections", "OrderedDict") + b")\x81."), "damaged"),
  "build": (pickled(tz.stream(tz.named("collections", "OrderedDict") + b"}" + tz.text("x") + b"Nsb")), "changes what"),
  "build tensor": (pickled(tz.stream(tz.tensor(ONE, 0, (4,), (1,)) + b"}" + tz.text("x") + b"Nsb")), "damaged"),
  "storage called": (pickled(tz.calls("torch", "FloatStorage", tz.number(9))), "calls a type of storage"),
  "unknown storage": (bad_tensor(0, (4,), (1,), store=tz.storage("0", 4, tz.named("torch", "QInt8Storage"))), "QInt8"),
  "no storage type": (
    bad_tensor(0, (4,), (1,), store=tz.storage("0", 4, tz.named("collections", "OrderedDict"))),
    "no storage",
  ),
  "no storage word": (bad_tensor(0, (4,), (1,), store=tz.storage("0", 4, word="file")), "no storage"),
  "storage missing": (bad_tensor(0, (4,), (1,), data={}), "storage '0' is not in the file"),
  "storage elsewhere": (bad_tensor(0, (4,), (1,), store=tz.storage("../0", 4)), r"'../0' is not in the file"),
  "storage short": (bad_tensor(0, (4,), (1,), data={"0": b"x" * 12}), "12 bytes, and 4 x 4"),
  "storage long": (bad_tensor(0, (4,), (1,), data={"0": b"x" * 20}), "20 bytes, and 4 x 4"),
  "storage negative": (bad_tensor(0, (4,), (1,), store=tz.storage("0", -4)), "and -4 x 4"),
  "too large": (bad_tensor(0, (5,), (1,)), "reaches outside"),
  "offset outside": (bad_tensor(1, (4,), (1,)), "reaches outside"),
  "stride outside": (bad_tensor(0, (2,), (9,)), "reaches outside"),
  "expansion": (bad_tensor(0, (10**6, 10**6), (0, 0)), "reaches outside"),
  "negative size": (bad_tensor(0, (-1,), (1,)), r"size \(-1,\)"),
  "negative stride": (bad_tensor(3, (4,), (-1,)), r"stride \(-1,\)"),
  "negative offset": (bad_tensor(-1, (4,), (1,)), "offset -1"),
  "ranks differ": (bad_tensor(0, (4,), (1, 1)), "not put together"),
  "tensor of text": (bad_tensor(0, (4,), (1,), store=tz.text("a")), "not put together"),
  "no tensor": (pickled(tz.stream(tz.mapping({"weight": tz.number(3)}))), "weight is int, expected a tensor"),
  "no text": (pickled(tz.stream(b"}" + tz.number(1) + tz.tensor(ONE, 0, (4,), (1,)) + b"s")), "a name that is int"),
  "no dict": (pickled(tz.stream(b"]")), "holds list, expected a state dict"),
  "cut pickle": (pickled(tz.stream(tz.mapping({}))[:-1]), "damaged"),
  "empty pickle": (pickled(b""), "damaged"),
  "deep pickle": (pickled(b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b"."), "damaged|expected a state dict"),
  "pickle is a zip": (pickle_is_a_zip, "damaged"),
  "nested zip": (inner_zip, r"0 entries NAME/data\.pkl"),
  "no pickle": (lambda path: tz.archive(path, None, FOUR), r"0 entries NAME/data\.pkl"),
  "two pickles": (with_entries(("other/data.pkl", b"x")), r"2 entries NAME/data\.pkl"),
  "bomb": (
    lambda path: tz.archive(path, b"\0" * 10**7, {}, compression=zipfile.ZIP_DEFLATED),
    "archive/data.pkl' is compressed",
  ),
  "large pickle": (lambda path: tz.archive(path, b"\0" * (65 << 20)), r"data\.pkl has 68157440 bytes"),
  "parent name": (with_entries(("archive/../../etc/passwd", b"x")), "is no name that PyTorch writes"),
  "absolute name": (with_entries(("/etc/passwd", b"x")), "'/etc/passwd' is no name"),
  "backslash": (with_entries(("archive\\data\\9", b"x")), "is no name that PyTorch writes"),
  "duplicate": (twice, "'archive/data/0' stands twice"),
  "overlap": (overlapping, "overlaps another one"),
  "encrypted": (flagged, "is encrypted"),
  "big endian": (with_entries(("archive/byteorder", b"big")), "byteorder is not 'little'"),
  "TorchScript": (with_entries(("archive/code/__torch__.py", b"x")), r"TorchScript archive.*state_dict\(\)"),
  "constants": (with_entries(("archive/constants.pkl", b"x")), "TorchScript archive"),
  "legacy": (lambda path: path.write_bytes(tz.legacy()), r"before 1\.6.*state_dict\(\)"),
  "text": (lambda path: path.write_text("<html>not found</html>"), "is no zip file"),
  "empty": (lambda path: path.write_bytes(b""), "empty"),
  "cut early": (edited(lambda data: data[:50]), "damaged"),
  "cut late": (edited(lambda data: data[:-30]), "damaged"),
  "cut middle": (edited(lambda data: data[:40] + data[90:]), "damaged|no header|overlaps"),
  "lost header": (edited(lambda data: data.replace(b"PK\x03\x04", b"PK\x07\x04", 1)), "is no zip|no header|damaged"),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_bad_file_of_pytorch_is_refused_and_runs_nothing(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  make, message = TORCH[name]
  path = tmp_path / "weights.pt"
  make(path)
  with pytest.raises(UserError, match=message) as refused:
    torch_file.read(path)
  assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
  assert not (tmp_path / "canary").exists()


WHOLE = save({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)})


def header(entries, data=b"\0" * 32, length=None):
  content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(begin, end, shape=(4,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SAFETENSORS = {
  "overlap": (header({"a": entry(0, 16), "b": entry(8, 24)}, b"\0" * 24), "no whole"),
  "same bytes": (header({"a": entry(0, 16), "b": entry(0, 16)}, b"\0" * 16), "no whole"),
  "hole": (header({"a": entry(0, 16), "b": entry(20, 36)}, b"\0" * 36), "no whole"),
  "outside": (header({"a": entry(0, 16)}, b"\0" * 8), "no whole"),
  "left over": (header({"a": entry(0, 16)}, b"\0" * 64), "no whole"),
  "negative": (header({"a": entry(-16, 0)}), "no whole"),
  "backwards": (header({"a": entry(16, 0)}), "no whole"),
  "wrong size": (header({"a": entry(0, 32, (4,))}), "no whole"),
  "overflow": (header({"a": entry(0, 32, (2**40, 2**40))}), "no whole"),
  "unknown type": (header({"a": entry(0, 32, (8,), "F31")}), "no whole"),
  "unsupported type": (header({"a": entry(0, 32, (32,), "F8_E4M3")}), "a holds F8_E4M3; allowed: F64"),
  "twice": (
    header(
      b'{"a":' + json.dumps(entry(0, 32, (8,))).encode() + b',"a":' + json.dumps(entry(0, 32, (8,))).encode() + b"}"
    ),
    "twice|no whole",
  ),
  "no JSON": (header(b"{nothing}"), "no whole"),
  "list": (header([1, 2]), "no whole"),
  "no entry": (header({"a": 3}), "no whole"),
  "no text": (header(b"\xff\xfe\xfd"), "no whole"),
  "long header": (header({}, length=10**15), "no whole"),
  "header past the end": (header({"a": entry(0, 32, (8,))}, length=10**4), "no whole"),
  "deep header": (header(b"[" * 10**5), "no whole"),
  "cut header": (WHOLE[:20], "no whole"),
  "cut length": (WHOLE[:5], "no whole"),
  "cut data": (WHOLE[:-1], "no whole"),
  "pickle": (tz.calls("os", "system", tz.text(CANARY)), "no whole"),
  "text": (b"version https://git-lfs.github.com/spec/v1\n", "no whole"),
  "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_bad_safetensors_file_is_refused(tmp_path, name):
  content, message = SAFETENSORS[name]
  path = tmp_path / "weights.safetensors"
  path.write_bytes(content)
  with pytest.raises(UserError, match=message) as refused:
    safetensors_file.read(path)
  assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("reader", [torch_file, safetensors_file])
def test_what_is_no_file_is_refused(tmp_path, reader):
  for path, message in ((tmp_path / "none.pt", "no such file"), (tmp_path, "not a file")):
    with pytest.raises(UserError, match=message):
      reader.read(path)
