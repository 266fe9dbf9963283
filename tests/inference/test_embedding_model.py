"""The Python interface: the golden models, batching, tokenizers, and arguments that do not fit."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from numeric import assert_close
from project_paths import GOLDEN

import clipvip_jax
from clipvip_jax.inference import embedding_model
from clipvip_jax.inference.embedding_model import fitting_batch_size
from clipvip_jax.input_pipeline import frame_sampling
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.sources import Weights

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
def test_pixels_give_the_reference_features_at_any_batch_size(golden, vip, count):
  data = golden("forward.npz")
  video = tiny.channels_last(data["T4/video"])[:count]
  assert_close(np.stack(list(vip.embed_pixels(video))), data["T4/video_features"][:count])


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "openclip_tiny.safetensors"])
def test_plain_clip_uses_mean_pooling(golden, name):
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


@pytest.mark.parametrize(("count", "largest", "size"), [(1, 32, 1), (3, 32, 4), (32, 32, 32), (50, 32, 32), (5, 6, 6)])
def test_a_batch_is_the_least_power_of_two_that_holds_all(count, largest, size, monkeypatch):
  monkeypatch.setattr(embedding_model.jax, "device_count", lambda: 1)
  assert fitting_batch_size(count, largest) == size


@pytest.mark.parametrize(("count", "largest", "size"), [(1, 32, 3), (4, 32, 6), (50, 32, 33)])
def test_a_batch_is_divisible_by_the_number_of_devices(count, largest, size, monkeypatch):
  monkeypatch.setattr(embedding_model.jax, "device_count", lambda: 3)
  assert fitting_batch_size(count, largest) == size


def test_few_videos_and_texts_are_not_padded_to_a_full_batch(tokenizer):
  model = load(tokenizer=tokenizer, batch_size=64)
  shapes = []
  for name in ("_embed_video", "_embed_text"):
    embed = getattr(model, name)
    setattr(model, name, lambda params, batch, embed=embed: shapes.append(len(batch)) or embed(params, batch))
  model.embed_videos([clip(9)] * 3)
  model.embed_texts(["a red circle"] * 11)
  assert shapes == [8, 16]  # on eight devices


@pytest.mark.slow
def test_texts_of_any_length_are_batched(vip, tokenizer):
  model = load(tokenizer=tokenizer)
  texts = ["a red circle", "", "a small blue square moves down " * 9, *(f"circle {i}" for i in range(9))]
  features = model.embed_texts(texts)
  assert features.shape == (12, 32)
  for text, row in zip(texts, features, strict=True):  # in order, although texts of similar length share a batch
    assert_close(model.embed_texts([text])[0], row, 1e-6)
  assert model.embed_texts([]).shape == (0, 32)


def test_without_a_tokenizer_texts_are_refused_and_videos_are_not(vip):
  with pytest.raises(UserError, match=r"no tokenizer is known for a vocabulary of 100.*tokenizer="):
    vip.embed_texts(["a red circle"])


def test_identity_depends_on_weights_and_frames(vip):
  assert vip.identity == load().identity == load("vip_tiny.safetensors").identity
  assert len({vip.identity, load(num_frames=2).identity, load("clip_tiny.safetensors").identity}) == 3


def test_crop_is_that_of_the_caller_and_part_of_the_identity(vip):
  cropped = load(crop="center")
  wide, square = clip(4, 32, 64), clip(4, 40, 40)
  np.testing.assert_array_equal(cropped.embed_videos([square]), vip.embed_videos([square]))
  assert np.abs(cropped.embed_videos([wide]) - vip.embed_videos([wide])).max() > 1e-3
  # These frames have the model's height already.
  assert_close(cropped.embed_videos([wide]), vip.embed_videos([wide[:, :, 16:48]]), 1e-5)
  assert vip.config.data.crop == "squash" and load(crop="squash").identity == vip.identity != cropped.identity


def test_another_image_size_resizes_the_position_embedding(vip):
  larger = load(image_size=64)
  assert larger.params["vision"]["position_embedding"].shape == (65, 64)
  assert larger.embed_videos([clip(4)]).shape == (1, 32)


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
    (lambda: load().embed_videos("clip.mp4"), "put it into a list"),
    (lambda: load().embed_videos([np.zeros((4, 8, 8, 3))]), "uint8"),
    (lambda: load().embed_videos(["none.mp4"]), "none.mp4: no such file"),
  ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_line(call, message):
  with pytest.raises(UserError, match=message) as refused:
    call()
  assert "\n" not in str(refused.value)


def test_package_imports_neither_jax_nor_numpy():
  code = "import sys, clipvip_jax; print([m for m in ('jax', 'numpy') if m in sys.modules])"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_progress_lines_go_to_stderr_on_request(vip, capsys, monkeypatch):
  reporter = functools.partial(embedding_model.ProgressReporter, interval=0)
  monkeypatch.setattr(embedding_model, "ProgressReporter", reporter)
  vip.embed_videos([clip(1), clip(2)], progress=False)
  assert capsys.readouterr().err == ""
  vip.embed_videos([clip(1), clip(2)], progress=True)
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith("1/2 videos | ") and second.startswith("2/2 videos | ") and second.endswith("0s left")


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
  assert embedding_model.tokenizer_name(weights, requested) == expected
