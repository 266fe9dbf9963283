"""Files of weights by their first bytes, and sharded weights: equal to the single file, or refused by name."""

import json

import hub_stub
import numpy as np
import pytest
import torch_zip as tz
from numeric import assert_same_arrays
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import sources, tensor_files
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(activation="quick_gelu", vision_heads=4, text_heads=4)
INDEXES = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


def write_shard(path, tensors):
  if path.suffix == ".safetensors":
    save_file(tensors, path, {"format": "pt"})
  else:
    tz.save(path, tensors)


def sharded(folder, kind="safetensors", count=3):
  """Writes clip_tiny as HuggingFace writes models that exceed max_shard_size."""
  folder.mkdir()
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  stem = "model" if kind == "safetensors" else "pytorch_model"
  weight_map = {}
  for i in range(count):
    shard = f"{stem}-{i + 1:05}-of-{count:05}.{kind}"
    names = sorted(tensors)[i::count]
    write_shard(folder / shard, {name: tensors[name] for name in names})
    weight_map |= dict.fromkeys(names, shard)
  index = folder / INDEXES[kind]
  index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
  return index


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("count", [1, 4])
def test_shards_are_read_as_the_single_file(tmp_path, kind, count):
  index = sharded(tmp_path / "model", kind, count)
  expected = sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), HEADS).params
  for source in (index, index.parent):
    assert_same_arrays(sources.read_weights(str(source), HEADS).params, expected)


@pytest.mark.parametrize("kind", INDEXES)
def test_missing_shards_are_refused_by_name(tmp_path, kind):
  index = sharded(tmp_path / "model", kind)
  absent = sorted(index.parent.glob("*-of-00003*"))[1:]
  for path in absent:
    path.unlink()
  with pytest.raises(UserError, match=r"2 of 3 shards are missing: .*; download them") as refused:
    tensor_files.read(index)
  assert all(path.name in str(refused.value) for path in absent)


@pytest.mark.parametrize("kind", INDEXES)
def test_tensor_in_two_shards_or_none_is_refused_by_name(tmp_path, kind):
  index = sharded(tmp_path / "model", kind)
  first, second, _ = sorted(index.parent.glob("*-of-00003*"))
  content = {name: np.array(x) for name, x in tensor_files.read(first)[0].items()}
  moved = {name: np.array(x) for name, x in tensor_files.read(second)[0].items()}
  name = next(iter(content))
  write_shard(second, {**moved, name: content[name]})
  with pytest.raises(UserError, match=f"{name} is in two shards, {first.name} and {second.name}"):
    tensor_files.read(index)
  write_shard(second, moved)
  write_shard(first, {other: x for other, x in content.items() if other != name})
  with pytest.raises(UserError, match=rf"1 tensors are in no shard: {name} \({first.name}\); download"):
    tensor_files.read(index)
  write_shard(first, {**content, "unexpected": content[name]})
  with pytest.raises(UserError, match=f"unexpected is in {first.name}, according to the index in no shard"):
    tensor_files.read(index)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "is not an index of sharded weights"),
    ("[" * 100_000, "is not an index of sharded weights"),
    (
      "version https://git-lfs.github.com/spec/v1\noid sha256:abc\n",
      ": this is a Git LFS pointer, not its content; run",
    ),
    ("<html></html>", ": this is a web page; download the file itself"),
    ("[]", "is not an index of sharded weights"),
    ('{"weight_map": {}}', "weight_map is not an object"),
    ('{"weight_map": ["a"]}', "weight_map is not an object"),
    ('{"weight_map": {"a": "../x.bin"}}', r"shard of a, '\.\./x\.bin', is not the name of a file in the same folder"),
    ('{"weight_map": {"a": "/etc/passwd"}}', "'/etc/passwd', is not the name of a file"),
    ('{"weight_map": {"a": "pytorch_model.bin.index.json"}}', "is not the name of a file"),
    ('{"weight_map": {"a": 3}}', "shard of a, 3, is not the name of a file"),
    ('{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "'a' twice"),
    (json.dumps({"weight_map": {"a": "x" * 5000}}), r"shard of a, 'x+\.\.\., is not the name of a file"),
    (json.dumps({"weight_map": {"a": "é" * 200}}), "is not the name of a file"),
  ],
)
def test_invalid_index_is_refused(tmp_path, content, message):
  index = tmp_path / "pytorch_model.bin.index.json"
  index.write_text(content)
  with pytest.raises(UserError, match=message) as refused:
    tensor_files.read(index)
  assert str(refused.value).startswith(str(index)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["last.ckpt", "best.pth.tar", "pytorch_model.bin.3", "clip.safetensors", "clip"])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_first_bytes_determine_the_format(tmp_path, name, kind):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  if kind == "torch":
    tz.save(tmp_path / name, tensors)
  else:
    save_file(tensors, tmp_path / name)
  weights = sources.read_weights(str(tmp_path / name), HEADS)
  assert_same_arrays(weights.params, sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), HEADS).params)


PLACEHOLDERS = {
  "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 605\n": "a Git LFS pointer, .*run `git lfs pull`",
  "<!DOCTYPE html><html>404</html>": "a web page; download the file itself",
}


@pytest.mark.parametrize("content", PLACEHOLDERS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "clip.pt", "last.ckpt"])
def test_placeholder_of_a_failed_download_is_refused_as_such(tmp_path, name, content):
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=rf"{name} is {PLACEHOLDERS[content]}"):
    sources.read_weights(str(tmp_path / name))


@pytest.mark.parametrize("content", PLACEHOLDERS)
@pytest.mark.parametrize("kind", INDEXES)
def test_shard_that_is_a_placeholder_is_refused_by_name(tmp_path, kind, content):
  index = sharded(tmp_path / "model", kind)
  shard = min(index.parent.glob("*-of-00003*"))
  shard.write_text(content)
  with pytest.raises(UserError, match=f"{shard.name} is {PLACEHOLDERS[content]}"):
    tensor_files.read(index)


@pytest.mark.parametrize("name", ["notes.txt", "weights.onnx"])
def test_file_of_another_format_is_refused(tmp_path, name):
  (tmp_path / name).write_text("not weights at all")
  with pytest.raises(UserError, match=r"is not a source of weights; allowed: files \(\.safetensors"):
    sources.read_weights(str(tmp_path / name))


@pytest.mark.parametrize("kind", INDEXES)
def test_hub_downloads_the_shards_of_the_same_commit(tmp_path, monkeypatch, kind):
  index = sharded(tmp_path / "model", kind)
  files = {path.name: path.read_bytes() for path in index.parent.iterdir()}
  with hub_stub.serve(tmp_path, monkeypatch) as hub:
    repository = hub.create("owner/sharded", files)
    weights = sources.read_weights("hf://owner/sharded", HEADS)
    downloads = {path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
  commit = repository.branches["main"]
  assert downloads == {f"/owner/sharded/resolve/{commit}/{name}" for name in files}
  assert_same_arrays(weights.params, sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), HEADS).params)
