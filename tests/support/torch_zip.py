"""Files as PyTorch writes them, good and hostile, made by hand."""

import pickle
import struct
import zipfile

import numpy as np

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
  """A pickle that asks for a function to be called."""
  return stream(call(named(module, name), *arguments))


def protocol_4(module, name, argument):
  def short(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()

  return b"\x80\x04" + short(module) + short(name) + b"\x93" + short(argument) + b"\x85R."


def legacy():
  return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + b"rest"
