"""Layer normalization: values and gradients against Flax's."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from numeric import assert_close

from clipvip_jax.models.layer_norm import EPSILON, LayerNorm


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 5, 32), (7, 48)])
def test_values_and_gradients_equal_flax(dtype, shape):
  x, weight = (2 + jax.random.normal(jax.random.key(i), shape) for i in range(2))
  x = x.astype(dtype)
  params = {"scale": 1 + x.reshape(-1, shape[-1])[0].astype(jnp.float32), "bias": weight.reshape(-1, shape[-1])[1]}
  flax_norm = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=jnp.float32)

  def objective(norm, params, x):
    return (norm.apply({"params": params}, x).astype(jnp.float32) * weight).sum()

  ours = LayerNorm(dtype)
  y = ours.apply({"params": params}, x)
  assert y.dtype == dtype
  bound = 1e-6 if dtype == "float32" else 1e-2
  assert_close(y.astype(jnp.float32), flax_norm.apply({"params": params}, x), bound)
  grads, x_grad = jax.grad(objective, (1, 2))(ours, params, x)
  exact, x_exact = jax.grad(objective, (1, 2))(flax_norm, params, x.astype(jnp.float32))
  assert x_grad.dtype == dtype
  assert {name: y.dtype for name, y in grads.items()} == dict.fromkeys(params, jnp.float32)
  assert_close(x_grad.astype(jnp.float32), x_exact, bound)
  for name, y in grads.items():
    assert_close(y, exact[name], bound)


def test_parameters_are_those_of_flax():
  x = jnp.ones((2, 8))
  ours, flax = (norm.init(jax.random.key(0), x) for norm in (LayerNorm(), nn.LayerNorm()))
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all() and a.dtype == b.dtype, ours, flax))


def test_variance_does_not_suffer_cancellation():
  x = 1e4 + jnp.arange(8.0).reshape(1, 8)
  assert_close(LayerNorm().init_with_output(jax.random.key(0), x)[0], (x - 10003.5) / 5.25**0.5, 1e-5)


def test_backward_pass_keeps_no_normalized_values():
  x = jnp.ones((64, 32))
  params = LayerNorm().init(jax.random.key(0), x)
  kept = jax.tree.leaves(jax.vjp(LayerNorm().apply, params, x)[1])
  assert sorted(y.size for y in kept if y.size >= 64) == [64, 64, x.size], "mean, inverse deviation and input"
