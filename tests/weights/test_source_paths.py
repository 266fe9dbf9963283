"""Names of sources of weights and the files that they stand for."""

import json
import pathlib

import hub_stub
import numpy as np
import pytest
from numeric import assert_same_arrays
from project_paths import GOLDEN

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import source_paths, sources
from clipvip_jax.weights.model_config import Hints


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("none.safetensors", "none.safetensors': no such file; to start from CLIP"),
    ("weights.onnx", r"is not a source of weights; allowed: files \(.safetensors, .pt"),
    ("hf://onlyname", "expected hf://OWNER/NAME"),
    ("hf://../../etc/passwd", "expected hf://OWNER/NAME"),
    (".", "contains no weights; expected a run's checkpoints or one of clip_vip.safetensors"),
    ("x" * 5000, r"^x+\.\.\. is not a readable path \(File name too long\); correct it$"),
  ],
)
def test_invalid_source_is_refused(tmp_path, monkeypatch, source, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message):
    source_paths.check_source(source) if "//" not in source else source_paths.download(source)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  with hub_stub.serve(tmp_path, monkeypatch) as stub:
    yield stub


HEADS = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 4}}


def test_hub_repository_is_read_with_all_files_that_a_folder_is_read_with(hub, tmp_path):
  folder = tmp_path / "folder"
  folder.mkdir()
  (folder / "model.safetensors").write_bytes((GOLDEN / "clip_tiny.safetensors").read_bytes())
  (folder / "config.json").write_text(json.dumps(HEADS))
  (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.4, 0.5, 0.6]}')
  (folder / "tokenizer.json").write_text("{}")
  repository = hub.create("openai/clip-tiny", {"notes.txt": b"x"})
  oid = repository.commit("v1", {path.name: path.read_bytes() for path in folder.iterdir()} | {"big.bin": b"x"})
  for revision in ("v1", oid):
    weights, expected = sources.read_weights(f"hf://openai/clip-tiny@{revision}"), sources.read_weights(str(folder))
    assert weights.source == f"hf://openai/clip-tiny@{revision}" and weights.config.vision.heads == 4
    assert_same_arrays(weights.params, expected.params)
    assert pathlib.Path(weights.tokenizer).read_text() == "{}"
  plain = sources.read_weights(str(GOLDEN / "clip_tiny.safetensors"), Hints(vision_heads=4, text_heads=4))
  assert not np.array_equal(plain.params["vision/patch_embedding"], weights.params["vision/patch_embedding"])
  assert not any(path.endswith(("big.bin", "notes.txt")) for _, path, _ in hub.requests), "only files that are read"


def test_name_on_the_hub_has_a_revision():
  assert source_paths.split_hub_name("hf://some_one/a.b-c") == ("some_one/a.b-c", None)
  for revision in ("v1.0+cpu", "refs/pr/3", "feature/a@b", "0" * 40):
    assert source_paths.split_hub_name(f"hf://a/b@{revision}") == ("a/b", revision)


def test_only_the_weights_that_are_read_are_downloaded_and_are_read_again_without_the_hub(hub, monkeypatch):
  weights = (GOLDEN / "clip_tiny.safetensors").read_bytes()
  files = {"model.safetensors": weights, "pytorch_model.bin": b"x", "open_clip_model.safetensors": b"x"}
  hub.create("owner/clip", {**files, "config.json": json.dumps(HEADS).encode()})
  expected = sources.read_weights("hf://owner/clip").params
  downloads = {path.rpartition("/")[2] for _, path, _ in hub.requests if "/resolve/" in path}
  assert downloads == {"model.safetensors", "config.json"}
  hub.requests.clear()
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  assert_same_arrays(sources.read_weights("hf://owner/clip").params, expected)
  with pytest.raises(UserError, match="'hf://owner/other' cannot be downloaded: HF_HUB_OFFLINE forbids connections"):
    sources.read_weights("hf://owner/other")
  assert not hub.requests


@pytest.mark.parametrize(
  ("source", "message"),
  [
    (
      "hf://owner/none",
      r"'hf://owner/none' cannot be downloaded: the Hub answered 404 \(Repository not found\)",
    ),
    (
      "hf://owner/there@none",
      r"cannot be downloaded: the Hub answered 404 \(Invalid rev id\); no such rep",
    ),
    ("hf://owner/gated", r"cannot be downloaded: the Hub answered 403 \(ask for access\); the token does not permit"),
    ("hf://owner/there", "'hf://owner/there' contains no weights; expected one of clip_vip"),
  ],
)
def test_hub_repository_that_cannot_be_read_is_refused_in_one_line(hub, source, message):
  hub.create("owner/there")
  hub.create("owner/gated")
  hub.failures["GET", "/api/models/owner/gated"] = (403, f"ask for access\n{hub_stub.TOKEN}")
  with pytest.raises(UserError, match=message) as error:
    sources.read_weights(source)
  assert "\n" not in str(error.value) and hub_stub.TOKEN not in str(error.value)


@pytest.mark.parametrize("name", ["clip_vip.safetensors", "model.safetensors", "pytorch_model.bin"])
def test_weights_of_a_folder_are_found(tmp_path, name):
  (tmp_path / name).write_bytes(b"x")
  assert source_paths.weight_file(str(tmp_path)) == tmp_path / name


def test_step_of_a_run(tmp_path):
  demo = pathlib.Path("build/demo")
  assert source_paths.parse_run("build/demo") == (demo, None, False)
  assert source_paths.parse_run("build/demo@300") == (demo, 300, False)
  assert source_paths.parse_run("build/demo@raw") == (demo, None, True)
  assert source_paths.parse_run("build/demo@300@raw") == (demo, 300, True)
  (tmp_path / "run@3").mkdir()
  assert source_paths.parse_run(str(tmp_path / "run@3")) == (tmp_path / "run@3", None, False)
  assert source_paths.parse_run(str(tmp_path / "run@3@raw")) == (tmp_path / "run@3", None, True)
  (tmp_path / "run@raw").mkdir()
  assert source_paths.parse_run(str(tmp_path / "run@raw")) == (tmp_path / "run@raw", None, False)


def test_a_run_has_checkpoints_and_its_configuration(tmp_path):
  (tmp_path / "config.json").write_text('{"model": {}, "data": {}, "train": {}}')
  assert not source_paths.is_run(str(tmp_path))
  (tmp_path / "checkpoints").mkdir()
  assert source_paths.is_run(str(tmp_path)) and source_paths.is_run(f"{tmp_path}@12")


@pytest.mark.parametrize("content", [None, "", '{"model": {}', '{"model": {}, "data": {}}'])
def test_checkpoints_without_the_configuration_of_a_run_are_named(tmp_path, content):
  (tmp_path / "checkpoints").mkdir()
  if content is not None:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError, match=r"has checkpoints, but no config\.json of a run that can be read; restore it"):
    source_paths.check_source(str(tmp_path))


def test_runs_in_buckets_have_the_spellings_of_local_ones(bucket):
  bucket.write("run/config.json", b'{"model": {}, "data": {}, "train": {}}')
  assert not source_paths.is_run(bucket / "run")
  bucket.write("run/checkpoints/3/digests.json", b"{}")
  assert source_paths.is_run(bucket / "run") and source_paths.is_run(bucket / "run@3@raw")
  folder, step, raw = source_paths.parse_run(bucket / "run@3@raw")
  assert (folder / "config.json").read_bytes() == bucket.read("run/config.json") and (step, raw) == (3, True)
  bucket.write("run@3/config.json", b"{}")
  assert source_paths.parse_run(bucket / "run@3")[1] is None
  source_paths.check_source(bucket / "run")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("none.safetensors", r"none.safetensors': no such object"),
    ("folder", "folder' contains no weights; expected a run's checkpoints or one of clip_vip"),
  ],
)
def test_what_does_not_exist_in_a_bucket_is_refused_before_it_is_read(bucket, name, message):
  bucket.write("folder/config.json", b"{}")
  for read in (source_paths.check_source, sources.read_weights):
    with pytest.raises(UserError, match=message):
      read(bucket / name)


def test_an_unknown_scheme_is_refused_where_it_is_typed():
  for read in (source_paths.check_source, sources.read_weights):
    with pytest.raises(UserError, match=r"SOURCE=ftp://x/y is neither a local path nor gs://"):
      read("ftp://x/y")
