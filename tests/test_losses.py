"""Losses and their gradients against the public implementation, and what a mask must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

from clipvip_jax.losses import LOSSES

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


def value_and_grad(name, features, logit_scale, subtitle_mask, caption_mask):
  def loss(features, logit_scale):
    batch = {**features, "subtitle_mask": subtitle_mask, "caption_mask": caption_mask}
    return LOSSES[name](batch, logit_scale)

  value, (grads, scale_grad) = jax.value_and_grad(loss, (0, 1))(features, jnp.float32(logit_scale))
  return value, {**grads, "logit_scale": scale_grad}


def inputs(golden):
  data = golden("losses.npz")
  return {key: data[f"in/{key}"] for key in FEATURES}, data["in/logit_scale"]


def test_every_loss_has_a_reference():
  assert {*REFERENCE, "fc"} == set(LOSSES)


def test_what_an_image_text_model_is_trained_with_is_the_difference_of_two_references(golden):
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


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", [0.0, np.nan])
def test_a_masked_record_is_as_if_it_were_not_there(golden, name, garbage):
  features, scale = inputs(golden)
  mask = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  spoiled = {key: np.where(mask[:, None], x, garbage).astype(np.float32) for key, x in features.items()}
  value, grads = value_and_grad(name, spoiled, scale, mask, mask)
  kept = {key: x[mask] for key, x in features.items()}
  expected, expected_grads = value_and_grad(name, kept, scale, mask[mask], mask[mask])
  assert_close(value, expected, 1e-6)
  assert_close(grads["logit_scale"], expected_grads["logit_scale"], 1e-6)
  for key in FEATURES:
    assert_close(grads[key][mask], expected_grads[key], 1e-6, key)
    assert not np.any(grads[key][~mask]), key


def oracle_vsc_fc(f, scale, s_mask, c_mask):
  """(d) written out with loops over the pairs that exist."""
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
def test_what_stands_in_place_of_a_missing_text_changes_nothing(golden, name):
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
def test_no_loss_reads_a_feature_that_it_does_not_name(golden, name):
  features, scale = inputs(golden)
  everything = np.ones(8, bool)
  _, grads = value_and_grad(name, features, scale, everything, everything)
  read = {key for key in FEATURES if np.any(grads[key])}
  assert read == set(LOSSES[name].uses)
