"""Transformer blocks: token readout, rematerialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models.attention import full
from clipvip_jax.models.transformer import TokenReadout, Transformer


@pytest.mark.slow
def test_token_readout_equals_that_token_of_the_complete_output():
  transformer = Transformer(layers=2, heads=4, mlp=64, activation="quick_gelu")
  x = jax.random.normal(jax.random.key(0), (2, 6, 32))
  params = transformer.init(jax.random.key(1), x, full)
  index = jnp.array([4, 1])
  readout = transformer.apply(params, x, full, TokenReadout(index, jnp.ones((2, 6), bool)))
  assert readout.shape == (2, 1, 32)
  assert_close(readout[:, 0], transformer.apply(params, x, full)[jnp.arange(2), index], 1e-5)


@pytest.mark.slow
def test_rematerialisation_changes_neither_features_nor_gradients():
  video = np.random.default_rng(0).normal(size=(2, 3, 32, 32, 3)).astype(np.float32)
  model = tiny.model(embedding_init="scratch")
  remat = tiny.model(embedding_init="scratch", remat=True)
  params = tiny.random_params(model)

  def objective(model, params):
    return (model.apply({"params": params}, video, method="embed_video") ** 2 @ jnp.arange(32.0)).sum()

  value, grads = jax.jit(jax.value_and_grad(lambda p: objective(model, p)))(params)
  remat_value, remat_grads = jax.jit(jax.value_and_grad(lambda p: objective(remat, p)))(params)
  assert_close(value, remat_value, 1e-6)
  jax.tree.map(functools.partial(assert_close, relative=1e-4), grads["vision"], remat_grads["vision"])
  jaxpr = str(jax.make_jaxpr(jax.grad(lambda p: objective(remat, p)))(params))
  assert "remat" in jaxpr or "checkpoint" in jaxpr
