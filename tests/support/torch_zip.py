"""Files in PyTorch's format, valid and hostile, written without PyTorch."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import torch_file

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


def text(value):
  return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
  return b"J" + struct.pack("<i", value)


def named(module, name):
  return f"c{module}\n{name}\n".encode()


def tuple_of(*parts):
  return b"(" + b"".join(parts) + b"t"


def call(function, *arguments):
  return function + tuple_of(*arguments) + b"R"


def storage(key, count, kind=None, word="storage"):
  return tuple_of(text(word), kind or named("torch", "FloatStorage"), text(key), text("cpu"), number(count)) + b"Q"


def tensor(store, offset, size, stride):
  dims = (tuple_of(*map(number, size)), tuple_of(*map(number, stride)))
  hooks = named("collections", "OrderedDict") + b")R"
  return call(named("torch._utils", "_rebuild_tensor_v2"), store, number(offset), *dims, b"\x89", hooks)


def mapping(items):
  return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def stream(value):
  return b"\x80\x02" + value + b"."


def archive(path, pkl, data=None, root="archive", extra=(), compression=zipfile.ZIP_STORED):
  """A zip of data.pkl, the storages by key, and (name, content) of `extra`."""
  with zipfile.ZipFile(path, "w", compression) as file:
    if pkl is not None:
      file.writestr(f"{root}/data.pkl", pkl)
    for key, content in (data or {}).items():
      file.writestr(f"{root}/data/{key}", content)
    for name, content in extra:
      file.writestr(name, content)
  return path


def save(path, arrays):
  """Writes {name: array} as torch.save does."""
  items, data = {}, {}
  for key, (name, array) in enumerate(arrays.items()):
    array = np.ascontiguousarray(array)
    strides = [step // array.itemsize for step in array.strides]
    kind = named("torch", STORAGES[array.dtype.name])
    items[name] = tensor(storage(str(key), array.size, kind), 0, array.shape, strides)
    data[str(key)] = array.tobytes()
  return archive(path, stream(mapping(items)), data)


def calls(module, name, *arguments):
  """A pickle that calls a function."""
  return stream(call(named(module, name), *arguments))


def protocol_4(module, name, argument):
  def short(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()

  return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(argument) + b"\x85R."


def legacy():
  return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + b"rest"


NO_HOOKS = named("collections", "OrderedDict") + b")R"
FOUR_FLOATS = storage("0", 4)
FOUR_FLOATS_DATA = {"0": np.arange(4, dtype=np.float32).tobytes()}
FOUR_FLOATS_TENSOR = tensor(FOUR_FLOATS, 0, (4,), (1,))


# Functions of a path that write a file, valid or not.


def with_tensor(*arguments, data=FOUR_FLOATS_DATA, store=FOUR_FLOATS):
  return lambda path: archive(path, stream(mapping({"a": tensor(store, *arguments)})), data)


def with_pickle(pkl, data=FOUR_FLOATS_DATA):
  return lambda path: archive(path, pkl, data)


def write_valid(path):
  return with_tensor(0, (4,), (1,))(path)


def edited(change):
  """A write_valid file, its bytes changed."""

  def make(path):
    path.write_bytes(change(bytearray(write_valid(path).read_bytes())))

  return make


def with_entries(*extra):
  return lambda path: archive(path, stream(mapping({})), FOUR_FLOATS_DATA, extra=extra)


def with_duplicate_entry(path):
  with pytest.warns(UserWarning, match="Duplicate"):
    archive(path, stream(mapping({})), FOUR_FLOATS_DATA, extra=[("archive/data/0", b"x" * 16)])


def local_header(name, size, flags=0, method=0):
  return struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, 0, size, size, len(name), 0) + name


def redirected(inner):
  """The directory entry of the second storage points into the content of the first."""

  def make(path):
    archive(path, stream(mapping({})), {"0": inner, "1": b"b" * 16})
    data = bytearray(path.read_bytes())
    second, content = data.rindex(b"archive/data/1") - 46, data.index(inner)
    data[second + 42 : second + 46] = struct.pack("<I", content)
    path.write_bytes(data)

  return make


def directory_field(offset, value):
  """A write_valid file, one field of the directory's first entry changed."""

  def change(data):
    at = data.index(b"PK\1\2") + offset
    data[at : at + len(value)] = value
    return data

  return edited(change)


def end_record_field(offset, value):
  def change(data):
    at = len(data) - 22 + offset
    data[at : at + len(value)] = value
    return data

  return edited(change)


def nested_zip(path):
  write_valid(path)
  with zipfile.ZipFile(path.with_name("outer"), "w") as file:
    file.writestr("archive/inner.pt", path.read_bytes())
  path.write_bytes(path.with_name("outer").read_bytes())


def zip_as_pickle(path):
  archive(path, write_valid(path).read_bytes(), FOUR_FLOATS_DATA)


def assert_refused(folder, write, message):
  """Asserts that a file is refused in one line that names it, and that nothing in it was executed.

  Args:
    folder: the current folder, in which a hostile file would make "canary".
    write: function of a path that writes the file.
    message: pattern of the error.
  """
  path = folder / "weights.pt"
  write(path)
  with pytest.raises(UserError, match=message) as refused:
    torch_file.read(path)
  assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
  assert not (folder / "canary").exists()
