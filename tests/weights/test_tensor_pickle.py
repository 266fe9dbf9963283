"""Pickles are untrusted: everything but tensors is refused and nothing is executed."""

import pickle
import struct

import pytest
import torch_zip as tz

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import torch_file

CANARY = "touch canary"
# Deeply nested and doubling values would overflow the C stack or fill the memory in Python's unpickler.
PICKLES = {
  "os.system": (
    tz.with_pickle(tz.calls("os", "system", tz.text(CANARY))),
    r"references os\.system, which tensors do not need; nothing was executed",
  ),
  "posix.system": (tz.with_pickle(tz.calls("posix", "system", tz.text(CANARY))), "posix.system"),
  "subprocess": (tz.with_pickle(tz.calls("subprocess", "check_output", tz.text(CANARY))), "subprocess.check_output"),
  "eval": (tz.with_pickle(tz.calls("builtins", "eval", tz.text("open('canary', 'w')"))), "builtins.eval"),
  "exec": (tz.with_pickle(tz.calls("__builtin__", "exec", tz.text("open('canary', 'w')"))), "__builtin__.exec"),
  "open": (tz.with_pickle(tz.calls("io", "open", tz.text("canary"), tz.text("w"))), "io.open"),
  "getattr": (tz.with_pickle(tz.calls("builtins", "getattr", tz.text("a"), tz.text("b"))), "builtins.getattr"),
  "partial": (tz.with_pickle(tz.calls("functools", "partial", tz.text("a"))), "functools.partial"),
  "importlib": (tz.with_pickle(tz.calls("importlib", "import_module", tz.text("os"))), "importlib.import_module"),
  "numpy": (tz.with_pickle(tz.calls("numpy.core.multiarray", "_reconstruct")), "numpy.core.multiarray._reconstruct"),
  "torch.load": (tz.with_pickle(tz.calls("torch", "load", tz.text("x"))), "torch.load"),
  "torch.hub": (tz.with_pickle(tz.calls("torch.hub", "load", tz.text("x"))), "torch.hub.load"),
  "ours": (tz.with_pickle(tz.calls("clipvip_jax.weights.torch_file", "_load")), "clipvip_jax.weights.torch_file._load"),
  "protocol 4": (tz.with_pickle(tz.protocol_4("os", "system", CANARY)), "os.system"),
  "dotted name": (tz.with_pickle(tz.protocol_4("collections", "OrderedDict.fromkeys", "a")), "OrderedDict.fromkeys"),
  "extension": (tz.with_pickle(b"\x80\x02\x82\x01)R."), "opcode EXT1 1"),
  "extension 2": (tz.with_pickle(b"\x80\x02\x83\x01\x00)R."), "opcode EXT2"),
  "extension 4": (tz.with_pickle(b"\x80\x02\x84\x01\x00\x00\x00)R."), "opcode EXT4"),
  "copyreg": (
    tz.with_pickle(tz.calls("copyreg", "_reconstructor", tz.named("os", "system"))),
    "copyreg._reconstructor",
  ),
  "add extension": (
    tz.with_pickle(tz.calls("copyreg", "add_extension", tz.text("os"), tz.text("system"), tz.number(1))),
    "copyreg.add_extension",
  ),
  "name of a stranger": (tz.with_pickle(tz.protocol_4("os\nx", "system", CANARY)), r"references os\\nx\.system"),
  "name that is a number": (
    tz.with_pickle(tz.stream(tz.number(1) + tz.number(2) + b"\x93")),
    "references a function whose name is not a string",
  ),
  "instance": (tz.with_pickle(b"\x80\x02(" + tz.text(CANARY) + b"ios\nsystem\n."), "opcode INST os system"),
  "new object": (tz.with_pickle(b"\x80\x02" + tz.named("collections", "OrderedDict") + b")\x81."), "opcode NEWOBJ"),
  "object": (tz.with_pickle(b"\x80\x02(" + tz.named("os", "system") + tz.text(CANARY) + b"o."), "os.system"),
  "build": (
    tz.with_pickle(tz.stream(tz.named("collections", "OrderedDict") + b"}" + tz.text("x") + b"Nsb")),
    "sets attributes of an object that is not a dict",
  ),
  "build function": (
    tz.with_pickle(
      tz.stream(tz.named("torch._utils", "_rebuild_tensor_v2") + tz.mapping({"__call__": tz.FOUR_FLOATS_TENSOR}) + b"b")
    ),
    "sets attributes of an object that is not a dict",
  ),
  "build tensor": (
    tz.with_pickle(tz.stream(tz.FOUR_FLOATS_TENSOR + tz.mapping({"offset": tz.number(9)}) + b"b")),
    "sets attributes of an object that is not a dict",
  ),
  "build slots": (
    tz.with_pickle(
      tz.stream(tz.FOUR_FLOATS_TENSOR + tz.tuple_of(b"N", tz.mapping({"offset": tz.FOUR_FLOATS_TENSOR})) + b"b")
    ),
    "sets attributes of an object that is not a dict",
  ),
  "dict of arguments": (
    tz.with_pickle(tz.calls("collections", "OrderedDict", b"}")),
    "calls collections.OrderedDict with arguments that PyTorch does not write",
  ),
  "parameter of text": (
    tz.with_pickle(tz.calls("torch._utils", "_rebuild_parameter", tz.text("a"), b"\x88", tz.NO_HOOKS)),
    "calls torch._utils._rebuild_parameter with arguments that PyTorch does not write",
  ),
  "call of text": (
    tz.with_pickle(tz.stream(tz.call(tz.text("os.system"), tz.text(CANARY)))),
    "calls an object that is not a function",
  ),
  "call without tuple": (tz.with_pickle(tz.stream(tz.named("collections", "OrderedDict") + b"]R")), "without a tuple"),
  "conjugate": (
    tz.with_pickle(tz.stream(tz.mapping({"a": tz.FOUR_FLOATS_TENSOR[:-2] + tz.mapping({"conj": b"\x88"}) + b"tR"}))),
    "conjugate or negative",
  ),
  "storage called": (
    tz.with_pickle(tz.calls("torch", "FloatStorage", tz.number(9))),
    "calls the storage type torch.FloatStorage",
  ),
  "unknown storage": (
    tz.with_tensor(0, (4,), (1,), store=tz.storage("0", 4, tz.named("torch", "QInt8Storage"))),
    "QInt8",
  ),
  "no storage type": (
    tz.with_tensor(0, (4,), (1,), store=tz.storage("0", 4, tz.named("collections", "OrderedDict"))),
    "persistent id that is not a storage",
  ),
  "no storage word": (
    tz.with_tensor(0, (4,), (1,), store=tz.storage("0", 4, word="file")),
    "persistent id that is not a storage",
  ),
  "reference of four": (
    tz.with_tensor(0, (4,), (1,), store=tz.FOUR_FLOATS.removesuffix(tz.number(4) + b"tQ") + b"tQ"),
    "persistent id that is not a storage",
  ),
  "reference of text": (
    tz.with_tensor(0, (4,), (1,), store=tz.text("0") + b"Q"),
    "persistent id that is not a storage",
  ),
  "key that is a number": (
    tz.with_tensor(0, (4,), (1,), store=tz.FOUR_FLOATS.replace(tz.text("0"), tz.number(0))),
    "persistent id that is not a storage",
  ),
  "tensor of text": (
    tz.with_tensor(0, (4,), (1,), store=tz.text("a")),
    "calls torch._utils._rebuild_tensor_v2 with arguments that PyTorch does not write",
  ),
  "long text": (tz.with_pickle(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a."), "corrupt or not a PyTorch file"),
  "long number": (
    tz.with_pickle(b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"."),
    "corrupt or not a PyTorch file|opcode LONG4",
  ),
  "empty stack": (tz.with_pickle(b"\x80\x020."), "opcode POP"),
  "no mark": (tz.with_pickle(b"\x80\x02t."), "corrupt or not a PyTorch file"),
  "odd items": (tz.with_pickle(tz.stream(b"}(" + tz.text("a") + b"u")), "corrupt or not a PyTorch file"),
  "items of a text": (
    tz.with_pickle(tz.stream(tz.text("a") + tz.text("b") + b"Ns")),
    "adds items to an object that is neither list nor dict",
  ),
  "cut pickle": (tz.with_pickle(tz.stream(tz.mapping({}))[:-1]), "corrupt or not a PyTorch file"),
  "empty pickle": (tz.with_pickle(b""), "corrupt or not a PyTorch file"),
  "deep pickle": (
    tz.with_pickle(b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b"."),
    "corrupt or not a PyTorch file|expected a state dict",
  ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickle_of_anything_but_tensors_is_refused_and_not_executed(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  tz.assert_refused(tmp_path, *PICKLES[name])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_python_3_is_read(tmp_path, protocol):
  """Python's pickler writes the literals, tuples and memo; only the tensor is spliced in."""
  pkl = pickle.dumps({"epoch": (1, -1, 300, 70000, 2**40, 0.5, True, None, [1], [1, 2], "é" * 300)}, protocol)
  nested = tz.text("state_dict") + tz.mapping({"a": tz.FOUR_FLOATS_TENSOR}) + b"s."
  path = tz.archive(tmp_path / "x.pt", pkl.removesuffix(b".") + nested, tz.FOUR_FLOATS_DATA)
  assert list(torch_file.read(path)) == ["a"]


def test_attributes_of_a_state_dict_are_dropped(tmp_path):
  filled = tz.named("collections", "OrderedDict") + b")R(" + tz.text("a") + tz.FOUR_FLOATS_TENSOR + b"u"
  versions = tz.mapping({"_metadata": tz.mapping({"": tz.mapping({"version": tz.number(1)})})})
  assert list(
    torch_file.read(tz.archive(tmp_path / "x.pt", tz.stream(filled + versions + b"b"), tz.FOUR_FLOATS_DATA))
  ) == ["a"]


STATE = tz.mapping({"note": tz.text("x"), "owner": tz.calls("os", "getcwd")[2:-1]})
REBUILD_TENSOR = tz.named("torch._utils", "_rebuild_tensor_v2")
# The arguments of FOUR_FLOATS_TENSOR, without its function and call.
TENSOR_ARGUMENTS = tz.FOUR_FLOATS_TENSOR.removeprefix(REBUILD_TENSOR).removesuffix(b"R")


def with_state(kind):
  """A tensor of a class, with attributes."""
  return tz.call(tz.named("torch._tensor", "_rebuild_from_type_v2"), REBUILD_TENSOR, kind, TENSOR_ARGUMENTS, STATE)


def parameter_with_state(tensor, *state):
  function = tz.named("torch._utils", "_rebuild_parameter_with_state")
  return tz.call(function, tensor, b"\x88", tz.NO_HOOKS, *state)


@pytest.mark.parametrize(
  "value",
  [
    parameter_with_state(tz.FOUR_FLOATS_TENSOR, STATE),
    parameter_with_state(tz.FOUR_FLOATS_TENSOR, tz.tuple_of(STATE, b"N")),  # with slots
    with_state(tz.named("torch", "Tensor")),
    parameter_with_state(with_state(tz.named("torch", "Tensor")), STATE),
  ],
)
def test_attributes_of_tensors_are_dropped(tmp_path, value):
  path = tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping({"a.b": value})), tz.FOUR_FLOATS_DATA)
  assert torch_file.read(path)["a.b"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (with_state(tz.named("somewhere", "Quantized")), r"a\.b is not a tensor: data.pkl references somewhere\.Quantized"),
    (tz.call(tz.named("torch", "Tensor"), tz.number(4)), r"a\.b is not a tensor: data.pkl references torch\.Tensor"),
    (parameter_with_state(tz.calls("os", "getcwd")[2:-1], STATE), r"references os\.getcwd"),
    (parameter_with_state(tz.FOUR_FLOATS_TENSOR), "_with_state with arguments that PyTorch does not write"),
    (parameter_with_state(tz.FOUR_FLOATS_TENSOR, STATE, STATE), "with arguments that PyTorch does not write"),
  ],
)
def test_other_objects_with_attributes_are_refused(tmp_path, value, message):
  path = tz.archive(tmp_path / "x.pt", tz.stream(tz.mapping({"a.b": value})), tz.FOUR_FLOATS_DATA)
  with pytest.raises(UserError, match=message):
    torch_file.read(path)
