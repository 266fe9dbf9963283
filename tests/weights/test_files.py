"""Weight files are untrusted: what is whole is read to the bit, what is not is refused in one line that names it."""

import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_zip as tz
from project_paths import GOLDEN
from safetensors.numpy import load_file, save

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import safetensors_file, torch_file

ONE = tz.storage("0", 4)
FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}
FINE = tz.tensor(ONE, 0, (4,), (1,))
NO_HOOKS = tz.named("collections", "OrderedDict") + b")R"


def tensors(reader, path):
  found = reader.read(path)
  return found[0] if reader is safetensors_file else found


@pytest.mark.parametrize(("reader", "name"), [(torch_file, "vip_tiny.pt"), (safetensors_file, "vip_tiny.safetensors")])
def test_a_published_file_is_read_bit_for_bit_without_a_copy(reader, name):
  found, expected = tensors(reader, GOLDEN / name), load_file(GOLDEN / "vip_tiny.safetensors")
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
    "same": tz.tensor(ONE, 0, (4,), (1,)),
    "parameter": tz.call(tz.named("torch._utils", "_rebuild_parameter"), FINE, b"\x88", NO_HOOKS),
    "row": tz.tensor(ONE, 0, (1, 4), (10**9, 1)),  # along a side of 1 the stride means nothing
    "part": tz.tensor(ONE, 1, (2,), (1,)),
    "scalar": tz.tensor(ONE, 3, (), ()),
    "none": tz.tensor(ONE, 0, (0, 5), (5, 1)),
  }
  found = torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping(items)), FOUR))
  np.testing.assert_array_equal(found["t"], [[0, 2], [1, 3]])
  np.testing.assert_array_equal(found["part"], [1, 2])
  for name, shape in {"same": (4,), "parameter": (4,), "row": (1, 4)}.items():
    assert found[name].shape == shape
    np.testing.assert_array_equal(found[name].ravel(), np.arange(4))
  assert found["scalar"] == 3 and found["none"].shape == (0, 5)
  assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_training_checkpoints_state_dict_is_found(tmp_path, key):
  inner = tz.mapping({"a": tz.tensor(ONE, 0, (4,), (1,))})
  pkl = tz.stream(tz.mapping({"epoch": tz.number(1), "args": b"]" + tz.number(2) + b"a", key: inner}))
  assert list(torch_file.read(tz.archive(tmp_path / "x.pt", pkl, FOUR))) == ["a"]


def test_a_state_dict_of_a_module_has_attributes_that_are_dropped(tmp_path):
  filled = tz.named("collections", "OrderedDict") + b")R(" + tz.text("a") + FINE + b"u"
  versions = tz.mapping({"_metadata": tz.mapping({"": tz.mapping({"version": tz.number(1)})})})
  assert list(torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(filled + versions + b"b"), FOUR))) == ["a"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_python_3_is_read(tmp_path, protocol):
  """Python's own pickler writes the numbers, texts, tuples and memo; only the calls are spliced in."""
  pkl = pickle.dumps({"epoch": (1, -1, 300, 70000, 2**40, 0.5, True, None, [1], [1, 2], "é" * 300)}, protocol)
  nested = tz.text("state_dict") + tz.mapping({"a": FINE}) + b"s."
  path = tz.archive(tmp_path / "x.pt", pkl.removesuffix(b".") + nested, FOUR)
  assert list(torch_file.read(path)) == ["a"]


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


def local_header(name, size, flags=0, method=0):
  return struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, 0, size, size, len(name), 0) + name


def redirected(inner):
  """The directory's second storage points to what the first one's content begins with."""

  def make(path):
    tz.archive(path, tz.stream(tz.mapping({})), {"0": inner, "1": b"b" * 16})
    data = bytearray(path.read_bytes())
    second, content = data.rindex(b"archive/data/1") - 46, data.index(inner)
    data[second + 42 : second + 46] = struct.pack("<I", content)
    path.write_bytes(data)

  return make


def directory(offset, value):
  """A good file, one field of the directory's first entry changed."""

  def change(data):
    at = data.index(b"PK\1\2") + offset
    data[at : at + len(value)] = value
    return data

  return edited(change)


def end_record(offset, value):
  def change(data):
    at = len(data) - 22 + offset
    data[at : at + len(value)] = value
    return data

  return edited(change)


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
  "extension": (pickled(b"\x80\x02\x82\x01)R."), "instruction EXT1 1"),
  "extension 2": (pickled(b"\x80\x02\x83\x01\x00)R."), "instruction EXT2"),
  "extension 4": (pickled(b"\x80\x02\x84\x01\x00\x00\x00)R."), "instruction EXT4"),
  "copyreg": (pickled(tz.calls("copyreg", "_reconstructor", tz.named("os", "system"))), "copyreg._reconstructor"),
  "add extension": (
    pickled(tz.calls("copyreg", "add_extension", tz.text("os"), tz.text("system"), tz.number(1))),
    "copyreg.add_extension",
  ),
  "name of a stranger": (pickled(tz.protocol_4("os\nx", "system", CANARY)), r"asks for os\\nx.system"),
  "name that is a number": (pickled(tz.stream(tz.number(1) + tz.number(2) + b"\x93")), "module that is no text"),
  "instance": (pickled(b"\x80\x02(" + tz.text(CANARY) + b"ios\nsystem\n."), "instruction INST os system"),
  "new object": (pickled(b"\x80\x02" + tz.named("collections", "OrderedDict") + b")\x81."), "instruction NEWOBJ"),
  "object": (pickled(b"\x80\x02(" + tz.named("os", "system") + tz.text(CANARY) + b"o."), "os.system"),
  "build": (pickled(tz.stream(tz.named("collections", "OrderedDict") + b"}" + tz.text("x") + b"Nsb")), "changes what"),
  "build function": (
    pickled(tz.stream(tz.named("torch._utils", "_rebuild_tensor_v2") + tz.mapping({"__call__": FINE}) + b"b")),
    "changes what",
  ),
  "build tensor": (pickled(tz.stream(FINE + tz.mapping({"offset": tz.number(9)}) + b"b")), "changes what"),
  "build slots": (pickled(tz.stream(FINE + tz.tuple_of(b"N", tz.mapping({"offset": FINE})) + b"b")), "changes what"),
  "dict of arguments": (pickled(tz.calls("collections", "OrderedDict", b"}")), "not put together.*OrderedDict"),
  "parameter of text": (
    pickled(tz.calls("torch._utils", "_rebuild_parameter", tz.text("a"), b"\x88", NO_HOOKS)),
    "not put together.*_rebuild_parameter",
  ),
  "call of text": (pickled(tz.stream(tz.call(tz.text("os.system"), tz.text(CANARY)))), "calls what is no function"),
  "call without tuple": (pickled(tz.stream(tz.named("collections", "OrderedDict") + b"]R")), "without a tuple"),
  "conjugate": (
    pickled(tz.stream(tz.mapping({"a": FINE[:-2] + tz.mapping({"conj": b"\x88"}) + b"tR"}))),
    "conjugate or negative",
  ),
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
  "ranks differ": (bad_tensor(0, (4,), (1, 1)), "as many strides as sizes"),
  "many sides": (bad_tensor(0, (1,) * 70, (1,) * 70), "more than 64 axes"),
  "wide nothing": (bad_tensor(0, (0, *[2**30] * 4), (1,) * 5), "a has .*too"),
  "side of text": (
    pickled(tz.stream(tz.mapping({"a": FINE.replace(tz.tuple_of(tz.number(4)), tz.tuple_of(tz.text("4")), 1)}))),
    "a has an offset, size or stride that is no whole number",
  ),
  "side that is true": (
    pickled(tz.stream(tz.mapping({"a": FINE.replace(tz.tuple_of(tz.number(4)), tz.tuple_of(b"\x88"), 1)}))),
    "no whole number",
  ),
  "reference of four": (
    bad_tensor(0, (4,), (1,), store=ONE.removesuffix(tz.number(4) + b"tQ") + b"tQ"),
    "refers to something that is no storage",
  ),
  "reference of text": (bad_tensor(0, (4,), (1,), store=tz.text("0") + b"Q"), "something that is no storage"),
  "key that is a number": (
    bad_tensor(0, (4,), (1,), store=ONE.replace(tz.text("0"), tz.number(0))),
    "something that is no storage",
  ),
  "tensor of text": (bad_tensor(0, (4,), (1,), store=tz.text("a")), "not put together"),
  "no tensor": (pickled(tz.stream(tz.mapping({"weight": tz.number(3)}))), "weight is int, expected a tensor"),
  "no text": (pickled(tz.stream(b"}" + tz.number(1) + tz.tensor(ONE, 0, (4,), (1,)) + b"s")), "a name that is int"),
  "named twice": (pickled(tz.stream(b"}(" + (tz.text("a") + FINE) * 2 + b"u")), "names 'a' twice"),
  "two state dicts": (
    pickled(tz.stream(b"}(" + (tz.text("model") + tz.mapping({"a": FINE})) * 2 + b"u")),
    "names 'model' twice",
  ),
  "name of two lines": (pickled(tz.stream(tz.mapping({"a\nb": tz.number(3)}))), r"a\\nb is int"),
  "name without end": (pickled(tz.stream(tz.mapping({"a" * 10**6: tz.number(3)}))), r"a{150,160}\.\.\. is int"),
  "half a character": (pickled(tz.stream(b"}X\3\0\0\0\xed\xa0\x80" + tz.number(3) + b"s")), r"\\ud800 is int"),
  "no tensors": (pickled(tz.stream(b"}")), "holds no tensor"),
  # What would overflow the C stack, never end or fill the memory where keys are hashed and slots made beforehand.
  "deep key": (pickled(b"\x80\x02})" + b"\x85" * 10**5 + b"Ns."), "a name that is tuple"),
  "doubling key": (pickled(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns."), "a name that is tuple"),
  "doubling size": (
    pickled(
      tz.stream(tz.mapping({"a": FINE.replace(tz.tuple_of(tz.number(4)), b")" + b"q\x00h\x00\x86" * 60, 1)})),
    ),
    "no whole number",
  ),
  "far memo": (pickled(b"\x80\x02]r\xff\xff\xff\xff."), "holds list"),
  "long text": (pickled(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a."), "damaged"),
  "long number": (pickled(b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"."), "damaged|instruction LONG4"),
  "empty stack": (pickled(b"\x80\x020."), "instruction POP"),
  "no mark": (pickled(b"\x80\x02t."), "damaged"),
  "odd items": (pickled(tz.stream(b"}(" + tz.text("a") + b"u")), "damaged"),
  "items of a text": (pickled(tz.stream(tz.text("a") + tz.text("b") + b"Ns")), "what is no list or dict"),
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
  "overlap": (redirected(local_header(b"archive/data/1", 16) + b"x" * 16), "data/1' overlaps another one, .*data/0'"),
  "same bytes": (redirected(local_header(b"archive/data/0", 16) + b"x" * 16), "data/1' has another name in its own"),
  "name with zero": (directory(46 + 3, b"\0"), "is no name that PyTorch writes"),
  "dot": (with_entries(("archive/./9", b"x")), "is no name that PyTorch writes"),
  "deeper pickle": (lambda path: tz.archive(path, b"x", root="a/b"), "expected one at the top"),
  "encrypted": (directory(8, b"\1"), "is encrypted"),
  "strongly encrypted": (directory(8, b"\x40"), "is encrypted"),
  "encrypted in secret": (edited(lambda data: data[:6] + b"\1" + data[7:]), "is encrypted"),
  "compressed in secret": (edited(lambda data: data[:8] + b"\x08" + data[9:]), "is compressed"),
  "sizes differ": (directory(20, b"\1\0\0\0"), "is compressed"),
  "size outside": (
    directory(20, struct.pack("<II", 10**6, 10**6)),
    r"data\.pkl' reaches into the zip's directory, or out",
  ),
  "header outside": (directory(42, struct.pack("<I", 10**6)), r"data\.pkl' reaches outside of the file"),
  "other name within": (edited(lambda data: data.replace(b"data.pkl", b"data.pkx", 1)), "has another name in its own"),
  "directory outside": (end_record(16, b"\xff\xff\xff\x0f"), "damaged|reaches outside"),
  "large directory": (end_record(12, b"\xff\xff\xff\x0f"), "directory has 268435455 bytes; at most"),
  "comment": (edited(lambda data: data[:-2] + b"\1\0x"), "does not end as a zip does"),
  "big endian": (with_entries(("archive/byteorder", b"big")), "byteorder is not 'little'"),
  "TorchScript": (with_entries(("archive/code/__torch__.py", b"x")), r"TorchScript archive.*state_dict\(\)"),
  "constants": (with_entries(("archive/constants.pkl", b"x")), "TorchScript archive"),
  "legacy": (lambda path: path.write_bytes(tz.legacy()), r"before 1\.6.*state_dict\(\)"),
  "text": (lambda path: path.write_text("<html>not found</html>"), "is no zip file"),
  "empty": (lambda path: path.write_bytes(b""), "empty"),
  "cut early": (edited(lambda data: data[:50]), "damaged"),
  "cut late": (edited(lambda data: data[:-30]), "damaged"),
  "cut middle": (edited(lambda data: data[:40] + data[90:]), "damaged|no header|outside"),
  "cut at the end": (edited(lambda data: data[:-1]), "does not end as a zip does"),
  "cut to a header": (edited(lambda data: data[:4]), "does not end as a zip does"),
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
    "names 'a' twice",
  ),
  "many dimensions": (header({"a": entry(0, 32, (1,) * 70 + (8,))}), "a has shape .*dimension"),
  "wide nothing": (header({"a": entry(0, 32, (8,)), "z": entry(32, 32, (0, 2**62))}), "z has shape .*too big"),
  "name of two lines": (header({"a\nb": entry(0, 32, (32,), "F8_E4M3")}), r"a\\nb holds F8_E4M3"),
  "no tensors": (header({"__metadata__": {"format": "pt"}}, b""), "holds no tensor"),
  "metadata of numbers": (header({"__metadata__": {"format": 1}, "a": entry(0, 32, (8,))}), "no whole"),
  "no offsets": (header({"a": {"dtype": "F32", "shape": [8]}}), "no whole"),
  "fraction": (header({"a": entry(0, 32, (8.5,))}), "no whole"),
  "no JSON": (header(b"{nothing}"), "no whole"),
  "list": (header([1, 2]), "no whole"),
  "no entry": (header({"a": 3}), "no whole"),
  "no text": (header(b"\xff\xfe\xfd"), "no whole"),
  "long header": (header({}, length=10**15), "header of 1000000000000000 bytes; at most"),
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
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "file").write_bytes(b"x")
  for name, message in {
    "none.pt": "no such file",
    "": "not a file",
    "pipe": "not a file",
    "file/below": "no such file",
    "a" * 300: "cannot be read",
    "zero\0": "cannot be read",
  }.items():
    with pytest.raises(UserError, match=message):
      reader.read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damage_anywhere_is_refused_or_changes_numbers_alone(tmp_path, suffix):
  path = tmp_path / f"weights.{suffix}"
  whole = tz.save(path, {"a": np.ones((2, 2), np.float32)}).read_bytes() if suffix == "pt" else WHOLE
  reader = torch_file if suffix == "pt" else safetensors_file
  for position in range(len(whole)):
    for byte in (0, 0xFF, whole[position] ^ 1, whole[position] ^ 0x20):
      path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
      try:
        found = tensors(reader, path)
      except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
      else:
        assert sum(array.nbytes for array in found.values()) <= len(whole)
