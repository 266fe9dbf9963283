"""Norms of parameters and updates, against the updates that the optimizer made."""

import jax
import numpy as np
import pytest
import tiny

from clipvip_jax.distributed import sharding
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.training import optimizer
from clipvip_jax.training.update_norms import compile_update_norms


def tree(rng):
  text = {"bias": rng.normal(size=7), "mlp": {"up": {"kernel": rng.normal(size=(8, 16))}}}
  parts = {"logit_scale": np.float64(2), "text": text, "vision": {"proxies": rng.normal(size=(2, 4))}}
  return jax.tree.map(np.float32, parts)


def norm(*arrays):
  return np.sqrt(sum(np.sum(np.float64(x) ** 2) for x in arrays))


@pytest.mark.parametrize("frozen", [(), ("text/mlp",), ("vision/",)])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 4, 1)])
def test_norms_are_those_of_the_updates_that_were_made(frozen, shape):
  rng = np.random.default_rng(0)
  config = tiny.optimizer_config(frozen=frozen, learning_rate=0.1, weight_decay=0.5, lr_multipliers={"text": 3.0})
  adamw, lr_schedule = optimizer.from_config(config, 8)
  params = tree(rng)
  opt_state = adamw.init(params)
  for _ in range(3):
    updates, opt_state = adamw.update(tree(rng), opt_state, params)
    params = jax.tree.map(np.add, params, updates)
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))
  state = TrainState(np.int32(3), params, opt_state)
  state = jax.device_put(state, sharding.state_shardings(mesh, state))
  found = compile_update_norms(config, lr_schedule, mesh, state)(state)
  modules = {name: jax.tree.leaves(params[name]) for name in ("text", "vision")}
  made = {name: jax.tree.leaves(updates[name]) for name in modules}
  # optax.masked returns the gradients of frozen parameters; they are zeros in a training step.
  if "vision/" in frozen:
    made["vision"] = [np.zeros(1)]
  if "text/mlp" in frozen:
    made["text"] = [updates["text"]["bias"]]
  expected = {
    "param_norm": norm(*modules["text"], *modules["vision"]),
    "update_norm": norm(*made["text"], *made["vision"]),
    "update_ratio/text": norm(*made["text"]) / norm(*modules["text"]),
    "update_ratio/vision": norm(*made["vision"]) / norm(*modules["vision"]),
  }
  assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
