"""Losses and their gradients against the public implementation, under masks, by chunks and on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close

from clipvip_jax.distributed import sharding
from clipvip_jax.training import losses
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import loss_and_gradients

REFERENCE = {
  "vs": "NCELearnableTempLoss",
  "vs_fc": "VidImgDivideNCELearnableTempLoss",
  "vs_vc": "NCELearnableTempLoss_vs_vc",
  "vs_vc_fc": "NCELearnableTempLoss_vs_vc_fc",
  "vsc": "NCELearnableTempLoss_vsc",
  "vsc_fc": "NCELearnableTempLoss_vsc_fc",
  "joint_batch": "VidImgNCELearnableTempLoss",
  "vs_dual_softmax": "NCELearnableTempDSLLoss",
}
FEATURES = ("video", "subtitle", "frame", "caption")
MASKS = ("subtitle_mask", "caption_mask")
# Relative differences of another order of sums; dual softmax exponentiates rounded logits twice.
ROUNDING = {**dict.fromkeys(LOSSES, 2e-6), "vs_dual_softmax": 1e-5}


def value_and_grad(name, features, logit_scale, subtitle_mask, caption_mask, chunk=None):
  def loss(features, logit_scale):
    batch = {**features, "subtitle_mask": subtitle_mask, "caption_mask": caption_mask}
    return LOSSES[name](batch, logit_scale, chunk=chunk)

  value, (grads, scale_grad) = jax.value_and_grad(loss, (0, 1))(
    features, jnp.asarray(logit_scale, features["video"].dtype)
  )
  return value, {**grads, "logit_scale": scale_grad}


def inputs(golden):
  data = golden("losses.npz")
  return {key: data[f"in/{key}"] for key in FEATURES}, data["in/logit_scale"]


def test_every_loss_has_a_reference():
  assert {*REFERENCE, "fc"} == set(LOSSES)


@pytest.mark.slow
def test_fc_equals_the_difference_of_two_references(golden):
  data = golden("losses.npz")
  features, scale = inputs(golden)
  everything = np.ones(8, bool)
  value, grads = value_and_grad("fc", features, scale, everything, everything)
  both, one = REFERENCE["vs_fc"], REFERENCE["vs"]
  assert_close(value, data[f"{both}/loss"] - data[f"{one}/loss"])
  for key in ("frame", "caption"):
    assert_close(grads[key], data[f"{both}/grad/{key}"], name=key)
  assert not np.any(grads["video"]) and not np.any(grads["subtitle"])


@pytest.mark.parametrize("name", REFERENCE)
def test_value_and_gradients_equal_the_reference(golden, name):
  data = golden("losses.npz")
  features, scale = inputs(golden)
  everything = np.ones(8, bool)
  value, grads = value_and_grad(name, features, scale, everything, everything)
  assert_close(value, data[f"{REFERENCE[name]}/loss"])
  for key in (*FEATURES, "logit_scale"):
    expected = data.get(f"{REFERENCE[name]}/grad/{key}", np.zeros_like(grads[key]))
    assert_close(grads[key], expected, name=key)


def assert_masked_equals_removed(golden, name, garbage, dtype, bound):
  """Compares a batch that has masked records with the batch without them: loss and every gradient."""
  features, scale = inputs(golden)
  features = {key: x.astype(dtype) for key, x in features.items()}
  mask = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  spoiled = {key: np.where(mask[:, None], x, garbage).astype(dtype) for key, x in features.items()}
  value, grads = value_and_grad(name, spoiled, scale, mask, mask)
  kept = {key: x[mask] for key, x in features.items()}
  expected, expected_grads = value_and_grad(name, kept, scale, mask[mask], mask[mask])
  assert value.dtype == dtype
  assert_close(value, expected, bound)
  assert_close(grads["logit_scale"], expected_grads["logit_scale"], bound)
  for key in FEATURES:
    assert_close(grads[key][mask], expected_grads[key], bound, key)
    assert not np.any(grads[key][~mask]), key


# Dual softmax amplifies the float32 rounding of two orders of sums beyond 1e-6 on some CPUs. In float64, below, it is
# held to 1e-12.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "vs_dual_softmax"])
@pytest.mark.parametrize("garbage", [0.0, np.nan])
def test_a_masked_record_equals_a_batch_without_it(golden, name, garbage):
  assert_masked_equals_removed(golden, name, garbage, np.float32, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", [0.0, np.nan])
def test_a_masked_record_equals_a_batch_without_it_in_float64(golden, name, garbage):
  with jax.enable_x64(True):
    assert_masked_equals_removed(golden, name, garbage, np.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_the_content_of_a_masked_record_changes_no_bit(golden, name):
  features, scale = inputs(golden)
  mask = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  losses, gradients = [], []
  for garbage in (0.0, 0.5, -1e30, np.inf, np.nan):
    spoiled = {key: np.where(mask[:, None], x, garbage).astype(np.float32) for key, x in features.items()}
    value, grads = value_and_grad(name, spoiled, scale, mask, mask)
    losses.append(np.asarray(value).tobytes())
    gradients.append(b"".join(np.asarray(grads[key]).tobytes() for key in (*FEATURES, "logit_scale")))
  assert len(set(losses)) == 1 and len(set(gradients)) == 1


def oracle_vsc_fc(f, scale, s_mask, c_mask):
  """Computes (d) in float64 with loops over unmasked pairs."""
  f = {key: np.asarray(x, np.float64) for key, x in f.items()}
  scale = np.exp(np.float64(scale))

  def term(target, negatives):
    return np.log(np.exp(np.array([target, *negatives])).sum()) - target

  def mean(values):
    return sum(values) / max(len(values), 1)

  def dot(a, i, b, j):
    return scale * f[a][i] @ f[b][j]

  s_ids, c_ids = np.flatnonzero(s_mask), np.flatnonzero(c_mask)
  total = 0.0
  for own, ids in (("subtitle", s_ids), ("caption", c_ids)):
    rows = []
    for i in ids:
      negatives = [dot("video", i, "subtitle", j) for j in s_ids if j != i]
      negatives += [dot("video", i, "caption", j) for j in c_ids if j != i]
      rows.append(term(dot("video", i, own, i), negatives))
    total += mean(rows)
  for a, b, ids in (
    ("subtitle", "video", s_ids),
    ("caption", "video", c_ids),
    ("frame", "caption", c_ids),
    ("caption", "frame", c_ids),
  ):
    total += mean([term(dot(a, i, b, i), [dot(a, i, b, j) for j in ids if j != i]) for i in ids])
  return total


@pytest.mark.parametrize("missing", [[], [2], [0, 3, 7], list(range(8))])
def test_missing_captions_drop_only_their_pairs(golden, missing):
  features, scale = inputs(golden)
  subtitles, captions = np.ones(8, bool), np.ones(8, bool)
  subtitles[5] = False
  captions[missing] = False
  value, grads = value_and_grad("vsc_fc", features, scale, subtitles, captions)
  assert_close(value, oracle_vsc_fc(features, scale, subtitles, captions), 1e-6)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", LOSSES)
def test_features_of_missing_text_change_nothing(golden, name):
  features, scale = inputs(golden)
  masks = {"subtitle": np.arange(8) != 5, "caption": ~np.isin(np.arange(8), [0, 3])}
  results = []
  for garbage in (0.0, 7.0, np.nan):
    spoiled = {key: np.where(mask[:, None], features[key], np.float32(garbage)) for key, mask in masks.items()}
    results.append(value_and_grad(name, {**features, **spoiled}, scale, masks["subtitle"], masks["caption"]))
  for other in results[1:]:
    jax.tree.map(np.testing.assert_array_equal, results[0], other)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_text_gives_zero_and_no_gradient(golden, name):
  features, scale = inputs(golden)
  nothing = np.zeros(8, bool)
  value, grads = value_and_grad(name, features, scale, nothing, nothing)
  assert value == 0
  assert not any(np.any(x) for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_uses_exactly_the_features_that_it_names(golden, name):
  features, scale = inputs(golden)
  everything = np.ones(8, bool)
  _, grads = value_and_grad(name, features, scale, everything, everything)
  read = {key for key in FEATURES if np.any(grads[key])}
  assert read == set(LOSSES[name].uses)


def random_batch(size, width=16):
  rng = np.random.default_rng(0)
  features = {name: rng.normal(size=(size, width)).astype(np.float32) for name in FEATURES}
  features = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in features.items()}
  return features, {"subtitle_mask": rng.random(size) < 0.8, "caption_mask": rng.random(size) < 0.9}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chunk"), [*((name, 7) for name in LOSSES), ("vsc_fc", 8)])
def test_chunks_give_the_same_loss_and_gradients(name, chunk):
  features, masks = random_batch(24)
  whole = value_and_grad(name, features, 3.0, **masks)
  chunked = value_and_grad(name, features, 3.0, **masks, chunk=chunk)
  assert_close(chunked[0], whole[0], ROUNDING[name])
  for key, expected in whole[1].items():
    assert_close(chunked[1][key], expected, ROUNDING[name], key)


def test_large_batches_are_computed_by_chunks():
  def largest(size):
    features, masks = jax.eval_shape(lambda: random_batch(8))
    resized = {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in {**features, **masks}.items()}
    jaxpr = jax.make_jaxpr(lambda batch: LOSSES["vs"](batch, jnp.float32(2.0)))(resized)
    return max(np.prod(var.aval.shape, dtype=int) for eqn in jaxpr.eqns for var in eqn.outvars)

  assert largest(losses.UNCHUNKED_SIZE) >= losses.UNCHUNKED_SIZE**2
  assert largest(losses.UNCHUNKED_SIZE + 1) < losses.UNCHUNKED_SIZE**2 / 50


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_see_the_global_batch(name):
  features, masks = random_batch(32)
  mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})

  def alone(features, scale):
    return LOSSES[name]({**features, **masks}, scale)

  def together(features, scale):
    return sharding.sharded_loss(mesh, LOSSES[name])({**features, **masks}, scale)

  expected = jax.value_and_grad(alone, (0, 1))(features, jnp.float32(3.0))
  sharded = {name: jax.device_put(x, sharding.batch_sharding(mesh)) for name, x in features.items()}
  step = jax.jit(jax.value_and_grad(together, (0, 1))).lower(sharded, jnp.float32(3.0)).compile()
  actual = step(sharded, jnp.float32(3.0))
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert_close(a, b, ROUNDING[name])
  # Each device computes only its own eight rows of the 32 x 32 logits.
  assert "f32[8,32]" in (text := step.as_text()) and "f32[32,32]" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_eight_microbatches_of_16_give_the_gradient_of_one_batch_of_128(name):
  rng = np.random.default_rng(1)
  loss, width = LOSSES[name], 16
  batch = {key: rng.normal(size=(128, width)).astype(np.float32) for key in FEATURES}
  batch |= {mask: rng.random(128) < 0.9 for mask in MASKS}
  params = {f"{tower}/{i}": rng.normal(size=(width, width)) / 4 for tower in ("video", "text") for i in range(2)}
  params = {**jax.tree.map(np.float32, params), "logit_scale": np.float32(2.0)}

  def embed(params, batch, key):
    def tower(name, x):
      x = jnp.tanh(x @ params[f"{name}/0"]) @ params[f"{name}/1"]
      return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    towers = {"video": "video", "frame": "video", "subtitle": "text", "caption": "text"}
    features = {key: tower(towers[key], batch[key]) for key in FEATURES if key in loss.uses}
    return features | {key: x for key, x in batch.items() if key in MASKS}

  at_once, accumulated = (
    jax.jit(lambda params, n=n: loss_and_gradients(embed, loss, params, batch, None, n))(params) for n in (1, 8)
  )
  assert_close(accumulated[0], at_once[0], 1e-6)
  largest = max(np.abs(x).max() for x in at_once[1].values())
  for key, expected in at_once[1].items():
    assert np.abs(accumulated[1][key] - expected).max() <= 1e-6 * largest, key


def temporary_bytes(size, chunk):
  """Temporary memory of value and gradient of (d) for B = size, in bytes."""
  features, masks = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, random_batch(8, width=512)))
  batch = {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in {**features, **masks}.items()}
  loss = jax.value_and_grad(lambda batch: LOSSES["vsc_fc"](batch, jnp.float32(4.6), chunk=chunk), allow_int=True)
  return jax.jit(loss).lower(batch).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_chunks_grows_linearly_with_the_batch():
  small, middle, large = (temporary_bytes(size, losses.CHUNK) for size in (4_096, 32_768, 65_536))
  assert small < large <= 16 * small and large <= 2.1 * middle
  assert middle <= temporary_bytes(32_768, 0) / 8
