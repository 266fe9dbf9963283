"""Interpolation between two sources: equal to NumPy, exact at both ends, refused where the sources do not fit."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from flax import traverse_util
from ml_collections import ConfigDict
from project_paths import GOLDEN

from clipvip_jax import convert
from clipvip_jax.inference.interpolation import interpolate
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import export, sources
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(activation="quick_gelu", vision_heads=4, text_heads=4)
CLIP = str(GOLDEN / "clip_tiny.safetensors")


def random_weights(seed, added=3, time=4, temporal="proxies", **changes):
  """Weights of a run of the tiny model."""
  config = tiny.config(added_proxies=added, time_positions=time, temporal=temporal)
  params = tiny.random_params(clip_vip.from_config(config), seed=seed)
  flat = {name: np.asarray(x) for name, x in traverse_util.flatten_dict(params, sep="/").items()}
  flat["logit_scale"] = np.float32(seed)
  run = ConfigDict({"data": {"num_frames": 2 + seed, "text_length": 12, "crop": "squash", "tokenizer": "clip"}})
  is_clip = not added and not time
  return dataclasses.replace(sources.Weights(f"run {seed}", flat, config, is_clip, run), **changes)


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name, x in a.items():
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, b[name], name)


@pytest.mark.parametrize("alpha", [0.3, 0.75])
def test_equals_numpy(alpha):
  first, second = random_weights(1), random_weights(2)
  mixed = interpolate(first, second, alpha)
  a, b = np.float32(1 - alpha), np.float32(alpha)
  assert_equal(mixed.params, {name: a * first.params[name] + b * second.params[name] for name in first.params})
  assert (mixed.num_frames, mixed.temporal, mixed.run) == (second.num_frames, "proxies", second.run)
  assert mixed.source == f"run 1 and run 2 (alpha {alpha})"


def test_both_ends_are_exact_even_beside_values_that_are_not_finite():
  first, second = random_weights(1), random_weights(2)
  first.params["vision/class_embedding"] = np.full(64, -0.0, np.float32)
  broken = {**second.params, "vision/class_embedding": np.full(64, np.inf, np.float32)}
  second = dataclasses.replace(second, params=broken)
  for alpha, expected in ((0.0, first), (1.0, second)):
    mixed = interpolate(first, second, alpha).params
    assert all(mixed[name].tobytes() == np.asarray(x).tobytes() for name, x in expected.params.items())


@pytest.mark.parametrize("swapped", [False, True])
def test_parameters_that_clip_lacks_are_kept_only_on_request(swapped):
  clip, run = sources.read_weights(CLIP, HEADS), random_weights(2)
  pair = (run, clip) if swapped else (clip, run)
  with pytest.raises(UserError, match=r"clip_tiny\.safetensors lacks vision/added_proxies.*add --keep_unshared"):
    interpolate(*pair, 0.25)
  mixed = interpolate(*pair, 0.25, keep_unshared=True)
  share = np.float32(0.75 if swapped else 0.25)
  shared = {name: (1 - share) * x + share * run.params[name] for name, x in clip.params.items()}
  unshared = {name: run.params[name] for name in sources.CLIP_VIP_PARAMS}
  assert_equal(mixed.params, {**shared, **unshared})
  assert mixed.temporal == "proxies" and not mixed.is_clip and mixed.num_frames == run.num_frames


def other_heads():
  weights = random_weights(2)
  weights.config.vision.heads = 8
  return weights


def with_words(folder, word):
  WordTokenizer.train([f"a {word} square"], 100).save(folder / f"{word}.json")
  return {"tokenizer": str(folder / f"{word}.json")}


@pytest.mark.parametrize(
  ("second", "message"),
  [
    (other_heads, r"run 1 and run 2 differ in architecture: model\.vision\.heads=4 and 8; use weights of one model"),
    (lambda: random_weights(2, added=1), r"architecture: model\.vision\.added_proxies=3 and 1;"),
    (lambda: random_weights(2, temporal="full"), r"run 1 has model\.temporal='proxies', run 2 'full'"),
    (lambda: random_weights(2, hints=Hints(crop="center")), r"run 1 .* data\.crop='squash', run 2 with 'center'"),
  ],
  ids=["heads", "proxies", "temporal", "crop"],
)
def test_weights_that_do_not_fit_are_refused(second, message):
  with pytest.raises(UserError, match=message):
    interpolate(random_weights(1), second(), 0.5, keep_unshared=True)


def test_each_lacking_a_parameter_of_the_other_is_refused():
  first, second = random_weights(1, added=0), random_weights(2, time=0)
  with pytest.raises(UserError, match=r"run \d lacks vision/\w+, and run \d lacks vision/\w+; interpolate a model"):
    interpolate(first, second, 0.5, keep_unshared=True)


def test_vocabularies_are_compared(tmp_path, caplog, monkeypatch):
  red, again, blue = (with_words(tmp_path, word) for word in ("red", "red", "blue"))
  interpolate(random_weights(1, **red), random_weights(2, **again), 0.5)
  with pytest.raises(UserError, match="trained with different tokenizers"):
    interpolate(random_weights(1, **red), random_weights(2, **blue), 0.5)
  with pytest.raises(UserError, match="trained with different tokenizers"):
    interpolate(random_weights(1, **red), random_weights(2), 0.5)
  monkeypatch.setattr(log, "propagate", True)
  interpolate(random_weights(1, **red), random_weights(2, run=None), 0.5)
  assert "the tokenizer of run 2 is unknown" in caplog.text


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(alpha):
  with pytest.raises(UserError, match=rf"--alpha={alpha} must be at least 0 \(run 1\) and at most 1 \(run 2\)"):
    interpolate(random_weights(1), random_weights(2), alpha)


def test_convert_writes_the_interpolation_with_what_an_export_needs(tmp_path):
  first, second = random_weights(1, added=0, time=0), random_weights(2, added=0, time=0)
  paths = [str(tmp_path / f"{number}.safetensors") for number in (1, 2)]
  for weights, path in zip((first, second), paths, strict=True):
    export.export_weights(weights, tmp_path / path, "clip_vip")
  arguments = [paths[0], str(tmp_path / "out"), f"--interpolate={paths[1]}"]
  convert.main([*arguments, "--alpha=0.5"])
  mixed = sources.read_weights(str(tmp_path / "out"))
  assert_equal(mixed.params, interpolate(first, second, 0.5).params)
  assert (mixed.num_frames, mixed.config.vision.heads) == (second.num_frames, 4)
  assert json.loads((tmp_path / "out" / "config.json").read_text())
  for options, message in (
    (arguments, "--interpolate requires --alpha, the share of SOURCE2 from 0 to 1"),
    ([*arguments, "--alpha=2"], r"--alpha=2\.0 must be at least 0"),
    ([*arguments[:2], "--alpha=0.5"], "--alpha and --keep_unshared are options of --interpolate"),
    ([*arguments[:2], "--keep_unshared"], "--alpha and --keep_unshared are options of --interpolate"),
    ([*arguments[:2], "--interpolate=", "--alpha=0.5"], "contains no weights|not a source"),
  ):
    with pytest.raises(UserError, match=message):
      convert.main([*options, "--overwrite"])
  with pytest.raises(UserError, match=r"--interpolate writes to local targets only, .* then publish that folder"):
    convert.main([paths[0], "hf://a/b", "--license=mit", "--dry-run", f"--interpolate={paths[1]}", "--alpha=0.5"])
