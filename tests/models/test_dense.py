"""Dense layers: gradients, in float32 for parameters, with an activation of the input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import assert_close

from clipvip_jax.models.dense import ACTIVATIONS, dense


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


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activation_of_the_input_and_its_gradients_equal_those_of_two_layers(activation, dtype):
  x, kernel, weight = (jax.random.normal(jax.random.key(i), (64, 64)) for i in range(3))
  x, kernel, bias = x.astype(dtype), kernel / 8, weight[0]

  def ours(x, kernel, bias):
    return (dense(x, kernel, bias, activation).astype(jnp.float32) * weight).sum()

  def plain(x, kernel, bias):
    return ((activation(x) @ kernel + bias) * weight).sum()

  value, grads = jax.value_and_grad(ours, (0, 1, 2))(x, kernel, bias)
  exact, exact_grads = jax.value_and_grad(plain, (0, 1, 2))(x.astype(jnp.float32), kernel, bias)
  bound = 1e-5 if dtype == "float32" else 2e-2
  assert abs(value - exact) <= bound * jnp.abs(weight).sum()
  for y, expected in zip(grads, exact_grads, strict=True):
    assert_close(y.astype(jnp.float32), expected, bound)


def test_backward_pass_keeps_no_activated_values():
  x, kernel, bias = jnp.ones((64, 32)), jnp.ones((32, 8)), jnp.ones(8)
  layer = functools.partial(dense, activation=ACTIVATIONS["quick_gelu"])
  kept = jax.tree.leaves(jax.vjp(lambda *inputs: layer(*inputs), x, kernel, bias)[1])
  assert sorted(y.size for y in kept) == [8, kernel.size, x.size]
