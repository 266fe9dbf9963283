"""Loading models: options, tokenizers, and arguments that do not fit."""

import subprocess
import sys

import numpy as np
import pytest
import tiny
from golden_model import load
from ml_collections import ConfigDict
from numeric import assert_close
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

import clipvip_jax
from clipvip_jax.inference import load_model
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.sources import Weights


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_plain_clip_uses_mean_pooling(golden, name):
  data = golden("meanpool.npz")
  model = load(name, num_frames=4)
  assert model.config.model.temporal == "mean"
  assert_close(np.stack(list(model.embed_pixels(tiny.channels_last(data["video"])))), data["video_features"])


def test_another_image_size_resizes_the_position_embedding():
  larger = load(image_size=64)
  assert larger.params["vision"]["position_embedding"].shape == (65, 64)
  assert larger.embed_videos([np.zeros((4, 40, 56, 3), np.uint8)]).shape == (1, 32)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: load(vision_heads=5), "vision_heads=5 does not divide"),
    (lambda: load(activation="relu"), r"activation='relu' is unknown; allowed: quick_gelu, gelu"),
    (lambda: load(temporal="max"), "temporal='max'"),
    (lambda: load(image_size=30), r"image_size=30 is not divisible by model\.patch_size=8"),
    (lambda: load(num_frames=-1), "num_frames=-1"),
    (lambda: load(batch_size=0), "batch_size=0"),
    (lambda: load(num_frames=0), "num_frames=0 must be an integer of at least 1"),
    (lambda: load(num_frames=2.5), "num_frames=2.5"),
    (lambda: load(num_frames=10**9), "num_frames=1000000000 must be at most 10000; use fewer"),
    (lambda: load(text_length=1), "text_length=1 must be at least 2"),
    (lambda: load(crop="middle"), "crop='middle' is unknown; use squash or center"),
    (lambda: load(tokenizer="clip"), "49408 tokens"),
    (lambda: load(tokenizer="none.json"), "none.json"),
    (lambda: clipvip_jax.load("weights.gguf"), "not a source of weights; allowed: files"),
  ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(call, message):
  with pytest.raises(UserError, match=message) as refused:
    call()
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "tower"), [("text_projection", "text"), ("visual_projection", "vision")])
def test_weights_with_nan_are_refused_before_anything_is_embedded(tmp_path, name, tower):
  tensors = load_file(GOLDEN / "clip_tiny.safetensors")
  tensors[f"{name}.weight"][0, 0] = np.nan
  save_file(tensors, tmp_path / "x.safetensors")
  with pytest.raises(UserError, match=rf"x\.safetensors: 1 values are NaN or infinite: {tower}/projection/kernel"):
    clipvip_jax.load(tmp_path / "x.safetensors")


def test_package_imports_neither_jax_nor_numpy():
  code = "import sys, clipvip_jax; print([m for m in ('jax', 'numpy') if m in sys.modules])"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
  ("vocab_size", "requested", "beside", "trained", "expected"),
  [
    (49408, None, "", None, "clip"),
    (49408, None, "b.json", None, "b.json"),
    (7, None, "b.json", None, "b.json"),
    (7, None, "", None, ""),
    (49408, None, "", "t.json", "t.json"),
    (7, None, "b.json", "words", "b.json"),
    (7, None, "", "words", ""),
    (49408, "a.json", "b.json", "t.json", "a.json"),
  ],
)
def test_tokenizer_is_the_requested_one_or_fits_the_weights(vocab_size, requested, beside, trained, expected):
  run = trained and ConfigDict({"data": {"tokenizer": trained}})
  weights = Weights("w", {}, ConfigDict({"text": {"vocab_size": vocab_size}}), False, run, beside)
  assert load_model.tokenizer_name(weights, requested) == expected
