"""Names of sources of weights and the files that they stand for."""

import json
import pathlib

import pytest
from project_paths import GOLDEN

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import source_paths, sources


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("none.safetensors", "none.safetensors': no such file; to start from CLIP"),
    ("weights.onnx", r"is not a source of weights; allowed: files \(.safetensors, .pt"),
    ("hf://onlyname", "expected hf://OWNER/NAME"),
    ("hf://../../etc/passwd", "expected hf://OWNER/NAME"),
    (".", "contains no weights; expected a run's checkpoints or one of clip_vip.safetensors"),
    ("x" * 5000, "is not a readable path"),
  ],
)
def test_invalid_source_is_refused(tmp_path, monkeypatch, source, message):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message):
    source_paths.check_source(source) if "//" not in source else source_paths.download(source)


def test_hub_repository_is_downloaded_and_read(tmp_path, monkeypatch):
  import huggingface_hub

  requests = []

  def snapshot_download(name, revision, allow_patterns):
    requests.append((name, revision))
    (tmp_path / "model.safetensors").write_bytes((GOLDEN / "clip_tiny.safetensors").read_bytes())
    config = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  weights = sources.read_weights("hf://openai/clip-tiny@v1")
  assert requests == [("openai/clip-tiny", "v1")] and weights.source == "hf://openai/clip-tiny@v1"
  assert weights.config.vision.heads == 4


@pytest.mark.parametrize("name", ["clip_vip.safetensors", "model.safetensors", "pytorch_model.bin"])
def test_weights_of_a_folder_are_found(tmp_path, name):
  (tmp_path / name).write_bytes(b"x")
  assert source_paths.weight_file(str(tmp_path)) == tmp_path / name


def test_step_of_a_run(tmp_path):
  assert source_paths.run_and_step("build/demo@300") == (pathlib.Path("build/demo"), 300)
  (tmp_path / "run@3").mkdir()
  assert source_paths.run_and_step(str(tmp_path / "run@3")) == (tmp_path / "run@3", None)


def test_a_run_has_checkpoints_and_its_configuration(tmp_path):
  (tmp_path / "config.json").write_text('{"model": {}, "data": {}, "train": {}}')
  assert not source_paths.is_run(str(tmp_path))
  (tmp_path / "checkpoints").mkdir()
  assert source_paths.is_run(str(tmp_path)) and source_paths.is_run(f"{tmp_path}@12")
