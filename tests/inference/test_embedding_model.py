"""The Python interface: features of the golden models, batching, and progress."""

import functools

import numpy as np
import pytest
import tiny
from golden_model import load
from numeric import assert_close

from clipvip_jax.inference import embedding_model
from clipvip_jax.inference.embedding_model import fitting_batch_size
from clipvip_jax.input_pipeline import frame_sampling
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


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


@pytest.mark.parametrize(
  ("backend", "width", "dtype", "most"),
  [
    ("cpu", 3072, "float32", 4),
    ("cpu", 3072, "bfloat16", 8),
    ("cpu", 2**20, "float32", 2),
    ("gpu", 3072, "float32", 99),
  ],
)
def test_cpus_compute_as_many_clips_at_once_as_their_caches_hold(vip, monkeypatch, backend, width, dtype, most):
  config = vip.config.copy_and_resolve_references()
  config.data.num_frames, config.model.image_size, config.model.patch_size = 12, 224, 32
  config.model.vision.mlp, config.model.dtype = width, dtype
  monkeypatch.setattr(embedding_model.jax, "default_backend", lambda: backend)
  monkeypatch.setattr(embedding_model.jax, "device_count", lambda: 2)
  assert min(99, embedding_model._most_clips(config)) == most


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


@pytest.mark.parametrize(
  ("tower", "embed"),
  [
    ("text", lambda model: model.embed_texts(["a red square", "a blue circle"])),
    ("vision", lambda model: model.embed_videos([np.zeros((2, 8, 8, 3), np.uint8)])),
  ],
)
def test_features_that_are_not_finite_are_refused(tower, embed, tokenizer):
  model = load(tokenizer=tokenizer)
  model.params[tower]["projection"]["kernel"] = model.params[tower]["projection"]["kernel"] * np.nan
  with pytest.raises(UserError, match=r"the features of .* are not finite; use other weights") as refused:
    embed(model)
  assert "\n" not in str(refused.value)


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


@pytest.mark.parametrize(
  ("videos", "message"),
  [
    ("clip.mp4", "put it into a list"),
    ([np.zeros((4, 8, 8, 3))], "uint8"),
    (["none.mp4"], "none.mp4: no such file"),
  ],
)
def test_what_is_no_list_of_videos_is_refused_in_one_line(vip, videos, message):
  with pytest.raises(UserError, match=message) as refused:
    vip.embed_videos(videos)
  assert "\n" not in str(refused.value)


def test_progress_lines_go_to_stderr_on_request(vip, capsys, monkeypatch):
  reporter = functools.partial(embedding_model.ProgressReporter, interval=0)
  monkeypatch.setattr(embedding_model, "ProgressReporter", reporter)
  vip.embed_videos([clip(1), clip(2)], progress=False)
  assert capsys.readouterr().err == ""
  vip.embed_videos([clip(1), clip(2)], progress=True)
  first, second = capsys.readouterr().err.splitlines()
  assert first.startswith("1/2 videos | ") and second.startswith("2/2 videos | ") and second.endswith("0s left")
