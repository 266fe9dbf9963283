"""load(): the golden models through the Python interface, and what it refuses."""

import numpy as np
import pytest
import tiny
from numeric import assert_close
from project_paths import GOLDEN

import clipvip_jax
from clipvip_jax.inference import embedding_model
from clipvip_jax.input_pipeline import frame_sampling
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError

OPTIONS = {"vision_heads": 4, "text_heads": 4, "activation": "quick_gelu", "batch_size": 8}


def load(name="vip_tiny.pt", **options):
  return clipvip_jax.load(str(GOLDEN / name), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def vip():
  return load()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp("words") / "tokenizer.json"
  WordTokenizer.train(["a red circle moves to the right then a small blue square moves down"], 100).save(path)
  return str(path)


@pytest.mark.parametrize("count", [1, 3])
def test_pixels_give_the_reference_features_whatever_the_batch(golden, vip, count):
  data = golden("forward.npz")
  video = tiny.channels_last(data["T4/video"])[:count]
  assert_close(np.stack(list(vip.embed_pixels(video))), data["T4/video_features"][:count])


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_a_plain_clip_pools_the_mean(golden, name):
  data = golden("meanpool.npz")
  model = load(name, num_frames=4)
  assert model.config.model.temporal == "mean"
  assert_close(np.stack(list(model.embed_pixels(tiny.channels_last(data["video"])))), data["video_features"])


def clip(count, height=40, width=56, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_arrays_of_any_length_and_size_are_sampled_resized_and_batched(vip):
  videos = [clip(9), clip(1, 33, 20), clip(30, 64, 64), *(clip(5, seed=s) for s in range(9))]
  features = vip.embed_videos(videos)
  assert features.shape == (12, 32) and features.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
  chosen = videos[2][frame_sampling.uniform_frames(30, vip.config.data.num_frames)]
  assert_close(vip.embed_videos([chosen])[0], features[2], 1e-6)  # alone or among others


def test_texts_of_any_length_are_batched(vip, tokenizer):
  model = load(tokenizer=tokenizer)
  texts = ["a red circle", "", "a small blue square moves down " * 9, *(f"circle {i}" for i in range(9))]
  features = model.embed_texts(texts)
  assert features.shape == (12, 32)
  assert_close(model.embed_texts(["a red circle"])[0], features[0], 1e-6)
  assert model.embed_texts([]).shape == (0, 32)


def test_without_a_tokenizer_texts_are_refused_and_videos_are_not(vip):
  with pytest.raises(UserError, match=r"no tokenizer for a vocabulary of 100.*tokenizer="):
    vip.embed_texts(["a red circle"])


def test_identity_follows_weights_and_frames(vip):
  assert vip.identity == load().identity == load("vip_tiny.safetensors").identity
  assert len({vip.identity, load(num_frames=2).identity, load("clip_tiny.safetensors").identity}) == 3


def test_another_image_size_resizes_the_positions(vip):
  larger = load(image_size=64)
  assert larger.params["vision"]["position_embedding"].shape == (65, 64)
  assert larger.embed_videos([clip(4)]).shape == (1, 32)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: load(vision_heads=5), "vision_heads=5 do not divide"),
    (lambda: load(activation="relu"), r"activation='relu' is unknown; allowed: quick_gelu, gelu"),
    (lambda: load(temporal="max"), "temporal='max'"),
    (lambda: load(image_size=30), r"image_size=30 is not divisible by model\.patch_size=8"),
    (lambda: load(num_frames=-1), "num_frames=-1"),
    (lambda: load(batch_size=0), "batch_size=0"),
    (lambda: load(num_frames=0), "num_frames=0 must be a whole number from 1"),
    (lambda: load(num_frames=2.5), "num_frames=2.5"),
    (lambda: load(text_length=1), "text_length=1 must be at least 2"),
    (lambda: load(tokenizer="clip"), "49408 tokens"),
    (lambda: load(tokenizer="none.json"), "none.json"),
    (lambda: clipvip_jax.load("weights.gguf"), "no source of weights"),
    (lambda: load().embed_videos("clip.mp4"), "put it into a list"),
    (lambda: load().embed_videos([np.zeros((4, 8, 8, 3))]), "uint8"),
    (lambda: load().embed_videos(["none.mp4"]), "none.mp4: no such file"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
  with pytest.raises(UserError, match=message) as refused:
    call()
  assert "\n" not in str(refused.value)


def test_the_package_itself_imports_neither_jax_nor_numpy():
  import subprocess
  import sys

  code = "import sys, clipvip_jax; print([m for m in ('jax', 'numpy') if m in sys.modules])"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_progress_lines_come_while_it_works(capsys, monkeypatch):
  now = iter(range(0, 100, 3))
  monkeypatch.setattr(embedding_model.time, "monotonic", lambda: next(now))
  assert list(embedding_model._with_progress(iter([1, 2]), 4, True)) == [1, 2]
  assert "1/4 videos | 0.3 videos/s | 9s left" in capsys.readouterr().err
