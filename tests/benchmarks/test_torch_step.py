"""The PyTorch peer of the training step against the reference, and the table beside it."""

import sys

import numpy as np
import pytest
import tiny
from flax import traverse_util
from numeric import assert_close
from optional_packages import needs_torch
from project_paths import ROOT

from benchmarks import beside_torch
from benchmarks.peer import run_peer

PEER = [sys.executable, str(ROOT / "benchmarks" / "torch_step.py")]


@needs_torch
@pytest.mark.parametrize("attention", [[], ["--bmm"]], ids=["fused", "bmm"])
def test_the_peer_has_the_loss_and_the_gradient_of_the_reference(golden, tmp_path, attention):
  data = golden("train.npz")
  params = traverse_util.flatten_dict(tiny.params(golden), sep="/") | {"logit_scale": np.float32(4.6)}
  video = tiny.channels_last(data["0/video"])
  inputs = {"video": video, "frame": video[:, int(data["frame_index"])]}
  inputs |= {name: data[f"0/{name}_ids"] for name in ("subtitle", "caption")}
  beside_torch.write_inputs(tmp_path / "inputs.npz", tiny.config(), params, inputs)
  result = run_peer([*PEER, f"--inputs={tmp_path / 'inputs.npz'}", "--repeats=1", *attention])
  assert_close(result["loss"], data["0/loss"], 2e-5, "loss")
  assert_close(result["grad_norm"], data["0/grad_norm"], 2e-5, "gradient norm")


@pytest.mark.parametrize("peer_loss", [None, 0.0], ids=["equal", "other"])
def test_a_peer_with_other_numbers_is_an_error(tmp_path, capsys, monkeypatch, peer_loss):
  """The stand-in checks its input, and prints the sum of absolute features of `embed_texts`."""
  texts = []
  original = beside_torch.EmbeddingModel.embed_texts

  def embed_texts(self, *args):
    texts.append(original(self, *args))
    return texts[-1]

  monkeypatch.setattr(beside_torch.EmbeddingModel, "embed_texts", embed_texts)

  def stand_in(command):
    path = next(flag.partition("=")[2] for flag in command if flag.startswith("--inputs="))
    with np.load(path) as file:
      assert file["text"].max(1).tolist() == [511] * 4 and file["text"].shape[1] < 70
      assert file["text_model.embeddings.token_embedding.weight"].shape == (512, 32)
    return {"seconds": 1.0, "loss": float(np.abs(texts[0]).sum()) if peer_loss is None else peer_loss}

  monkeypatch.setattr(beside_torch, "run_peer", stand_in)
  arguments = ["--peer=peer", "--model=tiny", "--what=texts", "--texts=4", "--repeats=1", "--rounds=1"]
  if peer_loss is None:
    beside_torch.main(arguments)
    assert "speed-up" in capsys.readouterr().out
  else:
    with pytest.raises(ValueError, match=r"loss of the first call: ours .*, peer 0\.0"):
      beside_torch.main(arguments)
