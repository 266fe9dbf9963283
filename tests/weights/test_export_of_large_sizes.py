"""CLIP's large sizes in the layouts of OpenAI, HuggingFace and OpenCLIP: read, written and read again."""

import json

import large_clip
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipvip_jax.configs import sizes
from clipvip_jax.weights import export, sources

# In OpenCLIP's open_clip_config.json of each published size: channels of a head, and hidden units by width.
OPENCLIP = {"l14": (64, 4), "l14_336": (64, 4), "h14": (80, 4), "bigg14": (104, 4.9231)}


@pytest.mark.parametrize("size", sizes.LARGE)
def test_weights_of_a_large_size_are_read_and_written_in_every_layout(tmp_path, size):
  tensors = large_clip.openclip_tensors(size)
  save_file(tensors, tmp_path / "random.safetensors")
  weights = sources.read_weights(str(tmp_path / "random.safetensors"))
  model = sizes.SIZES[size].model
  for name, expected in model.items():
    if isinstance(expected, dict):
      towers = {field: weights.config[name][field] for field in expected}
      assert towers == {**expected, "layers": 1}, name
    else:
      assert weights.config[name] == expected, name

  export.export_weights(weights, tmp_path / "huggingface", "clip")
  huggingface = json.loads((tmp_path / "huggingface" / "config.json").read_text())
  heads = large_clip.HEADS[size]
  assert tuple(huggingface[f"{tower}_config"]["num_attention_heads"] for tower in ("vision", "text")) == heads
  assert huggingface["vision_config"]["hidden_act"] == model["activation"]
  read = sources.read_weights(str(tmp_path / "huggingface"))
  assert read.config == weights.config

  export.export_weights(read, tmp_path / "openclip", "openclip")
  vision = json.loads((tmp_path / "openclip" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
  head_width, ratio = OPENCLIP[size]
  assert vision["head_width"] == head_width
  assert int(vision["width"] * vision["mlp_ratio"]) == int(vision["width"] * ratio)
  assert sources.read_weights(str(tmp_path / "openclip")).config == weights.config
  written = load_file(tmp_path / "openclip" / "open_clip_model.safetensors")
  assert written.keys() == tensors.keys() - {"input_resolution", "context_length", "vocab_size"}
  for name, tensor in written.items():
    np.testing.assert_array_equal(tensor.reshape(np.shape(tensors[name])), tensors[name], name)
