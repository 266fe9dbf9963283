"""Recipes and variants: shapes and parameter counts, without allocation or compilation."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from fine_tuning import FINE_TUNING
from flax import traverse_util
from ml_collections import ConfigDict

from clipvip_jax.configs import common, data_scale, mixed, msrvtt, post_pretrain, replication, sizes, variants
from clipvip_jax.models import clip_vip
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.train_step import init_state, make_train_step

RECIPES = sorted(
  path.stem
  for path in pathlib.Path(common.__file__).parent.glob("*.py")
  if path.stem not in ("__init__", "common", "fine_tuning", "sizes", "variants")
)
# Variants, alone and combined -> number of parameters. CLIP's published sizes are 151,277,313 and 149,620,737; three
# proxies and twelve frames add 15 rows of 768.
B32, B16, DEMO, SMOKE = 151_277_313 + 15 * 768, 149_620_737 + 15 * 768, 1_122_049, 43_617
VARIANTS = {
  "": B32,
  "b32": B32,
  "b16": B16,
  "demo": DEMO,
  "smoke": SMOKE,
  "own_videos": B32,
  "demo,single_frame": DEMO,
  "b16,single_frame": B16,
}
# Sizes that the paper does not have -> published number of CLIP's parameters, and width of the vision tower.
LARGE = {
  "l14": (427_616_513, 1024),
  "l14_336": (427_944_193, 1024),
  "h14": (986_109_441, 1280),
  "bigg14": (2_539_567_105, 1664),
}
# The paper's baselines and ablations of B/32. The sequence transformer has four blocks of the text tower's size, each
# with 12 D^2 + 13 D parameters, and 77 positions.
PLAIN = B32 - 15 * 768
TEMPORAL = {
  "single_frame": B32,
  "mean": PLAIN,
  "sequence": PLAIN + 4 * (12 * 512**2 + 13 * 512) + 77 * 512,
  "full": B32,
  "proxies_0": B32 - 3 * 768,
  "proxies_1": B32 - 2 * 768,
  "proxies_3": B32,
  "proxies_7": B32 + 4 * 768,
  "no_time": B32 - 12 * 768,
}


def recipe_shapes(variant):
  return shapes(post_pretrain.get_config(variant))


def shapes(config):
  """Returns the shapes of a state, and of state and metrics after one step."""
  config = config.copy_and_resolve_references()
  sizes = ConfigDict({name: config.data[name] for name in ("num_frames", "text_length")})
  traced = {"model": config.model, "optimizer": config.optimizer, "loss": config.loss, "data": sizes}
  return trace(ConfigDict(traced).to_json(sort_keys=True))


@functools.cache
def trace(config, batch_size=2):
  """Traces the step of a configuration, given as JSON; many recipes have the same."""
  config = ConfigDict(json.loads(config))
  model = clip_vip.from_config(config.model)
  chain, rate = optimizer.from_config(config.optimizer, 100)
  frozen = config.optimizer.frozen
  size, frames, length = config.model.image_size, config.data.num_frames, config.data.text_length
  spec = jax.ShapeDtypeStruct
  batch = {
    "video": spec((batch_size, frames, size, size, 3), jnp.float32),
    "frame": spec((batch_size, size, size, 3), jnp.float32),
    "subtitle": spec((batch_size, length), jnp.int32),
    "caption": spec((batch_size, length), jnp.int32),
    "subtitle_mask": spec((batch_size,), jnp.bool_),
    "caption_mask": spec((batch_size,), jnp.bool_),
  }
  state = jax.eval_shape(lambda: init_state(model, chain, config.model, 0))
  return state, jax.eval_shape(make_train_step(model, LOSSES[config.loss], chain, rate, frozen=frozen), state, batch)


MIXED = {"": B32, "b32": B32, "b16": B16, "smoke": SMOKE}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["b32", "b16"])
@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_recipes_trace_at_full_size(name, variant):
  config = FINE_TUNING[name].get_config(variant)
  before, (after, _) = shapes(config)
  assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)
  assert sum(x.size for x in jax.tree.leaves(before.params)) == {"b32": B32, "b16": B16}[variant]


@pytest.mark.parametrize("name", sizes.SIZES)
def test_sizes_have_clips_published_parameters_and_those_of_clip_vip(name):
  count, width = LARGE[name] if name in LARGE else (VARIANTS[name] - 15 * 768, 768)
  model = post_pretrain.get_config(name).model
  assert sum(x.size for x in jax.tree.leaves(clip_vip.parameter_shapes(model))) == count + 15 * width
  assert all(recipe.get_config(name).model == model for recipe in (mixed, data_scale, *FINE_TUNING.values()))


def test_all_recipes_and_variants_are_covered_here():
  assert sorted(["data_scale", "generated_captions", "mixed", "post_pretrain", "replication", *FINE_TUNING]) == RECIPES
  assert TEMPORAL.keys() == variants.TEMPORAL.keys()
  assert LARGE.keys() == {*sizes.LARGE} == sizes.SIZES.keys() - {"b32", "b16"}
  shared = variants.TEMPORAL.keys() | variants.OMNISOURCE.keys() | variants.SMALL_HARDWARE.keys()
  assert (
    set(post_pretrain.VARIANTS)
    == VARIANTS.keys() - {"", "demo,single_frame", "b16,single_frame"} | shared | LARGE.keys()
  )
  assert set(mixed.VARIANTS) == MIXED.keys() - {""} | variants.SMALL_HARDWARE.keys() | LARGE.keys()
  for recipe in FINE_TUNING.values():
    own = {"b32", "b16", *LARGE, "from_clip", *(msrvtt.PROTOCOLS if recipe is msrvtt else ())}
    assert set(recipe.VARIANTS) == own | variants.TEMPORAL.keys() | variants.SMALL_HARDWARE.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "count"), TEMPORAL.items())
def test_temporal_variants_change_the_parameter_count_as_expected(variant, count):
  full_size = clip_vip.parameter_shapes(post_pretrain.get_config(variant).model)
  assert sum(x.size for x in jax.tree.leaves(full_size)) == count
  state, (after, _) = recipe_shapes(f"smoke,{variant}")
  assert jax.tree.map(lambda x: x.shape, state) == jax.tree.map(lambda x: x.shape, after)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*variants.OMNISOURCE, *variants.SMALL_HARDWARE])
def test_other_variants_keep_the_parameters(variant):
  config = post_pretrain.get_config(f"smoke,{variant}")
  before, (after, _) = shapes(config)
  assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)
  assert sum(x.size for x in jax.tree.leaves(before.params)) == SMOKE
  optimizer.check_names(config.optimizer, before.params)
  trained = sum(x.size for x in jax.tree.leaves(before.opt_state))
  assert (trained < 2 * SMOKE) == variant.startswith("frozen")


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["pretrain", "zero_shot", "from_scratch", "longer", "ema"])
def test_replication_arms_trace(arm):
  own = {"pretrain", "zero_shot", "from_scratch", "longer", "constant", "ema", "smoke"}
  assert set(replication.VARIANTS) == own | variants.TEMPORAL.keys() | variants.OMNISOURCE.keys()
  before, (after, _) = shapes(replication.get_config(f"{arm},smoke"))
  assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "count"), MIXED.items())
def test_every_corpus_of_a_mixture_traces(variant, count):
  config = mixed.get_config(variant)
  for frames in {corpus.num_frames for corpus in (config.data, *config.mix.values())}:
    config.data.num_frames = frames
    before, (after, _) = shapes(config)
    assert jax.tree.map(lambda x: x.shape, before) == jax.tree.map(lambda x: x.shape, after)
    assert sum(x.size for x in jax.tree.leaves(before.params)) == count


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_preserves_the_shapes_of_the_state(variant):
  before, (after, metrics) = recipe_shapes(variant)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
  assert {name: x.shape for name, x in metrics.items()} == dict.fromkeys(
    ("loss", "grad_norm", "learning_rate", "logit_scale"), ()
  )


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_traces(loss):
  config = post_pretrain.get_config("smoke")
  config.loss = loss
  shapes(config)


@pytest.mark.parametrize(("variant", "count"), VARIANTS.items())
def test_parameter_counts(variant, count):
  state, _ = recipe_shapes(variant)
  assert sum(x.size for x in jax.tree.leaves(state.params)) == count


def test_parameters_without_weight_decay_are_biases_and_the_logit_scale():
  state, _ = recipe_shapes("")
  names = list(traverse_util.flatten_dict(state.params, sep="/"))
  undecayed = [name for name in names if not optimizer.decays(name)]
  # 8 biases a block, text/final_norm, vision/pre_norm and vision/post_norm, and logit_scale.
  assert len(undecayed) == 2 * 12 * 8 + 3 + 1
  assert all(name.endswith("/bias") or name == "logit_scale" for name in undecayed)
  decayed = set(names) - set(undecayed)
  assert {"vision/pre_norm/scale", "vision/time_embedding", "text/token_embedding", "vision/added_proxies"} <= decayed
