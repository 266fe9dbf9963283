"""State dicts inside of the files that people have; everything beside the tensors is skipped and never built."""

import argparse
import collections
import pickle
import zipfile

import numpy as np
import pytest
import torch_zip as tz

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import torch_file

STATE_DICT = tz.mapping({"a.weight": tz.FOUR_FLOATS_TENSOR})


def read(path, items):
  """Reads a file whose pickle is a dict of these pickled values."""
  pkl = tz.stream(items if isinstance(items, bytes) else tz.mapping(items))
  return torch_file.read(tz.archive(path, pkl, tz.FOUR_FLOATS_DATA))


def pickled(value, protocol=2):
  """The opcodes of a value as Python's pickler writes them, without header and end."""
  return pickle.dumps(value, protocol)[2:-1]


def size(*sides):
  return tz.call(tz.named("torch", "Size"), tz.tuple_of(*map(tz.number, sides)))


BESIDE = {
  "namespace": pickled(argparse.Namespace(lr=1e-4, betas=(0.9, 0.98))),
  "numpy scalar": pickled(np.float64(0.5)),
  "numpy array": pickled(np.arange(3)),
  "set": pickled({1, 2}),
  "frozenset, protocol 4": pickled(frozenset({"a"}), 4).removeprefix(b"\x95" + pickle.dumps(frozenset({"a"}), 4)[3:11]),
  "set, protocol 4": pickled({1, 2}, 4).removeprefix(b"\x95" + pickle.dumps({1, 2}, 4)[3:11]),
  "bytes": pickled(b"x" * 300, 3),
  "defaultdict": pickled(collections.defaultdict(list, a=[1])),
  "complex": pickled(1j),
  "torch.Size": size(2, 2),
  "torch.device": tz.call(tz.named("torch", "device"), tz.text("cpu")),
  "torch.dtype": tz.named("torch", "float32"),
  "optimizer": tz.mapping({"state": b"}" + tz.number(0) + tz.mapping({"exp_avg": tz.FOUR_FLOATS_TENSOR}) + b"s"}),
  "a class of the training code": tz.named("project.config", "Config") + b")\x81}" + tz.text("x") + b"Nsb",
  "a call": tz.call(tz.named("os", "system"), tz.text("touch canary")),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("key", ["state_dict", "ema"])
def test_objects_beside_the_state_dict_are_skipped(tmp_path, monkeypatch, name, key):
  monkeypatch.chdir(tmp_path)
  arrays = read(tmp_path / "x.pt", {"beside": BESIDE[name], key: STATE_DICT, "epoch": tz.number(3)})
  np.testing.assert_array_equal(arrays["a.weight"], np.arange(4))
  assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", BESIDE)
def test_object_in_place_of_a_tensor_is_refused(tmp_path, name):
  with pytest.raises(UserError, match=r"b\.weight is .*(state_dict|expected a tensor)"):
    read(tmp_path / "x.pt", {"a.weight": tz.FOUR_FLOATS_TENSOR, "b.weight": BESIDE[name]})


def test_entries_without_a_module_beside_tensors_are_skipped(tmp_path):
  items = {"step": tz.number(3), "a.weight": tz.FOUR_FLOATS_TENSOR, "args": BESIDE["namespace"]}
  assert list(read(tmp_path / "x.pt", items)) == ["a.weight"]


@pytest.mark.parametrize("keys", [("model", "state_dict"), ("net",), ("model_ema", "module"), ("network", "params")])
def test_nested_state_dict_is_found(tmp_path, keys):
  content = STATE_DICT
  for key in keys:
    content = tz.mapping({key: content, "epoch": tz.number(1)})
  assert list(read(tmp_path / "x.pt", content)) == ["a.weight"]


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "model_ema")])
def test_several_state_dicts_are_refused_by_key(tmp_path, keys):
  with pytest.raises(UserError, match=f"contains several state dicts: {', '.join(keys)}; .*save the one that you need"):
    read(tmp_path / "x.pt", dict.fromkeys(keys, STATE_DICT))


def module(name, **attributes):
  """A module of a TorchScript archive."""
  return tz.named("__torch__.clip", name) + b")\x81" + tz.mapping(attributes) + b"b"


def torchscript(path, content):
  """Writes an archive as torch.jit.save does: the source code is compressed, everything else is stored."""
  tz.archive(path, tz.stream(content), tz.FOUR_FLOATS_DATA, extra=[("archive/constants.pkl", b"\x80\x02).")])
  with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
    file.writestr("archive/code/__torch__/clip.py", "class CLIP(Module):\n" * 100)
  return path


def test_tensors_of_torchscript_have_the_names_of_the_state_dict(tmp_path):
  block = module("Block", training=b"\x89", weight=tz.FOUR_FLOATS_TENSOR, bias=b"N", size=BESIDE["torch.Size"])
  content = module("CLIP", visual=module("Visual", block=block), logit_scale=tz.tensor(tz.FOUR_FLOATS, 3, (), ()))
  arrays = torch_file.read(torchscript(tmp_path / "ViT-B-32.pt", content))
  assert arrays.keys() == {"visual.block.weight", "logit_scale"}
  np.testing.assert_array_equal(arrays["visual.block.weight"], np.arange(4))
  assert arrays["logit_scale"] == 3 and torch_file.is_torchscript(tmp_path / "ViT-B-32.pt")


RECURSIVE = tz.named("__torch__.clip", "CLIP") + b")\x81q\x01}" + tz.text("me") + b"h\x01sb"
DOUBLING = tz.named("__torch__.clip", "M") + b")\x81"
for _ in range(40):  # each module holds the one before it twice
  DOUBLING += b"q\x01" + tz.named("__torch__.clip", "M") + b")\x81}(" + tz.text("a") + b"h\x01"
  DOUBLING += tz.text("b") + b"h\x01ub"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (module("CLIP", training=b"\x89"), r"a TorchScript archive without tensors.*state_dict\(\)"),
    (STATE_DICT, "a TorchScript archive without tensors"),
    (RECURSIVE, "nested too deeply or too many"),
    (DOUBLING, "nested too deeply or too many"),
    (
      tz.named("__torch__.clip", "CLIP") + b")\x81}(" + (tz.text("a") + tz.FOUR_FLOATS_TENSOR) * 2 + b"ub",
      "contains 'a' twice",
    ),
  ],
)
def test_invalid_torchscript_is_refused(tmp_path, content, message):
  with pytest.raises(UserError, match=message):
    torch_file.read(torchscript(tmp_path / "x.pt", content))
