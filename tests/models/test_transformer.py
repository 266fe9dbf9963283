"""Transformer blocks: gradients of dense layers, token readout, rematerialisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.models.attention import full
from clipvip_jax.models.transformer import TokenReadout, Transformer, dense


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_gradients_of_parameters_are_float32_and_not_rounded(dtype):
  x, weight = (jax.random.normal(jax.random.key(i), (64, 64)) for i in range(2))
  x, kernel, bias, weight = x.astype(dtype), weight / 8, weight[0], weight.astype(dtype)

  def objective(layer, x, kernel, bias):
    return (layer(x, kernel, bias).astype(jnp.float32) * weight.astype(jnp.float32)).sum()

  def plain(x, kernel, bias):
    return x @ kernel.astype(dtype).astype(x.dtype) + bias.astype(dtype).astype(x.dtype)

  ours = jax.grad(functools.partial(objective, dense), (0, 1, 2))(x, kernel, bias)
  exact = jax.grad(functools.partial(objective, plain), (0, 1, 2))(x.astype(jnp.float32), kernel, bias)
  assert [y.dtype for y in ours] == [dtype, jnp.float32, jnp.float32]
  assert_close(ours[0], exact[0], 1e-6 if dtype == "float32" else 1e-2)
  # The inputs were rounded to bfloat16; their sums are not.
  assert_close(weight.astype(jnp.float32).sum(0), ours[2], 1e-6)
  assert_close(np.asarray(x, np.float64).T @ np.asarray(weight, np.float64), ours[1], 1e-6)


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
