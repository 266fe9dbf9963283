"""Schedules, weight decay and update rule against the public implementation and against float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from numeric import assert_close

from clipvip_jax.training import optimizer
from clipvip_jax.utils.errors import UserError

REFERENCE_SCHEDULES = {
  "cosine": "cosine",
  "linear": "linear",
  "constant": "constant",
  "inverse_sqrt": "invsqrt",
}


@pytest.mark.parametrize("name", optimizer.SCHEDULES)
def test_learning_rates_equal_the_reference(golden, name):
  data = golden("schedules.json")["lr_schedule"]
  schedule = optimizer.learning_rate(name, data["base"], data["total"], data["warmup_ratio"])
  ours = [float(schedule(jnp.int32(step))) for step in data["steps"]]
  assert_close(ours, data["values"][REFERENCE_SCHEDULES[name]])


def test_a_learning_rate_of_0_becomes_the_minimum():
  schedule = optimizer.learning_rate("cosine", 1e-3, 8, 0.25)
  assert float(schedule(jnp.int32(8))) == pytest.approx(1e-8)
  assert float(schedule(jnp.int32(1))) == pytest.approx(5e-4)


def test_rejects_an_unknown_schedule():
  with pytest.raises(UserError, match=r"optimizer\.schedule='cosin' is unknown; allowed: cosine, linear"):
    optimizer.learning_rate("cosin", 1e-3, 8, 0.25)


def names(tree):
  return jax.tree.leaves(optimizer.map_names(str, tree))


def test_the_undecayed_names_are_the_biases_and_the_logit_scale():
  params = tiny.random_params(tiny.model())
  undecayed = sorted(name for name in names(params) if not optimizer.decays(name))
  block = (
    "attention/key",
    "attention/out",
    "attention/query",
    "attention/value",
    "attention_norm",
    "mlp/down",
    "mlp/up",
    "mlp_norm",
  )
  expected = [f"{tower}/transformer/block_{i}/{x}/bias" for tower in ("text", "vision") for i in (0, 1) for x in block]
  expected += ["logit_scale", "text/final_norm/bias", "vision/pre_norm/bias", "vision/post_norm/bias"]
  assert undecayed == sorted(expected)
  assert optimizer.decays("vision/pre_norm/scale"), "the published runs decay LayerNorm scales"


def config(**overrides):
  fields = {"learning_rate": 1e-2, "schedule": "constant", "weight_decay": 0.1, "clip_norm": 2.0}
  return tiny.optimizer_config(**{**fields, **overrides})


def run(adamw, params, grads):
  state = adamw.init(params)
  for g in grads:
    updates, state = adamw.update(g, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params


def test_updates_equal_the_float64_formula():
  rng = np.random.default_rng(0)
  params = {"w": rng.normal(size=5), "bias": rng.normal(size=5), "logit_scale": np.float64(4.6)}
  grads = [jax.tree.map(lambda p: rng.normal(size=np.shape(p)) * 3, params) for _ in range(6)]
  multipliers = {"w": 0.5}
  adamw, _ = optimizer.from_config(config(lr_multipliers=multipliers), 6)
  ours = run(adamw, jax.tree.map(jnp.float32, params), jax.tree.map(jnp.float32, grads))

  m = dict.fromkeys(params, 0.0)
  v = dict.fromkeys(params, 0.0)
  for t, g in enumerate(grads, start=1):
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in g.values()))
    for key in params:
      clipped = g[key] * min(1, 2.0 / (norm + 1e-6))
      m[key] = 0.9 * m[key] + 0.1 * clipped
      v[key] = 0.98 * v[key] + 0.02 * clipped**2
      lr = 1e-2 * multipliers.get(key, 1)
      step = np.sqrt(1 - 0.98**t) / (1 - 0.9**t) * m[key] / (np.sqrt(v[key]) + 1e-6)
      params[key] = params[key] - lr * step
      if key == "w":
        params[key] = params[key] - lr * 0.1 * params[key]
  for key, expected in params.items():
    assert_close(ours[key], expected, 1e-6, key)


@pytest.mark.parametrize(("gradient", "bound"), [(-1.0, np.log(200)), (1.0, 0.0)])
def test_the_logit_scale_stays_between_zero_and_ln_200(gradient, bound):
  adamw, _ = optimizer.from_config(config(learning_rate=1.0), 10)
  params = run(adamw, {"logit_scale": jnp.float32(4.6)}, [{"logit_scale": jnp.float32(gradient)}] * 8)
  assert float(params["logit_scale"]) == pytest.approx(bound, abs=1e-6)


def test_multipliers_apply_to_names_that_begin_with_their_parts():
  assert optimizer.lr_multiplier("logit_scale", {"logit_scale": 10.0}) == 10
  multipliers = {"text/": 2.0, "text/final_norm": 3.0, "bias": 5.0, "tex": 7.0, "vision": 11.0}
  assert optimizer.lr_multiplier("text/final_norm/bias", multipliers) == 6


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_rejects_multipliers_that_are_no_finite_numbers_from_0(factor):
  with pytest.raises(UserError, match=rf"optimizer\.lr_multipliers\['text'\]={factor} is out of range; allowed: 0 or"):
    optimizer.from_config(config(lr_multipliers={"logit_scale": 0.0, "text": factor}), 4)


@pytest.mark.parametrize(
  ("name", "frozen"),
  [
    ("vision/transformer/block_1/mlp/up/kernel", True),
    ("vision/transformer/block_10/mlp/up/kernel", False),
    ("text/token_embedding", True),
    ("text/token_embedding_extra", False),
    ("logit_scale", True),
  ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_frozen_names_are_compared_by_their_parts(name, frozen, end):
  prefixes = [f"{prefix}{end}" for prefix in ("vision/transformer/block_1", "text/token_embedding", "logit_scale")]
  assert optimizer.is_frozen(name, prefixes) == frozen


def test_frozen_parameters_have_no_gradient_no_moments_and_no_decay():
  params = {"text": {"w": jnp.ones(3)}, "vision": {"w": jnp.ones(3)}, "logit_scale": jnp.float32(4.6)}
  adamw, _ = optimizer.from_config(config(frozen=("text/",)), 4)
  moments = jax.tree.leaves(adamw.init(params), is_leaf=lambda x: isinstance(x, optimizer.AdamState))
  adam = next(x for x in moments if isinstance(x, optimizer.AdamState))
  assert len(jax.tree.leaves(adam.first)) == len(jax.tree.leaves(adam.second)) == 2

  def objective(params):
    params = optimizer.stop_frozen_gradients(params, ("text/",))
    return (params["text"]["w"] * params["vision"]["w"]).sum()

  grads = jax.grad(objective)(params)
  assert not np.any(grads["text"]["w"]) and np.all(grads["vision"]["w"])
  after = run(adamw, params, [grads] * 3)
  np.testing.assert_array_equal(after["text"]["w"], params["text"]["w"])
  assert np.all(after["vision"]["w"] < 1)


@pytest.mark.parametrize(
  ("frozen", "message"),
  [
    (
      ("txet/",),
      r"optimizer\.frozen: no parameter name begins with 'txet/'; use the first parts of .* such as 'a/w'",
    ),
    (("",), r"optimizer\.frozen: no parameter name begins with ''"),
    (("a", "b"), r"optimizer\.frozen=\('a', 'b'\) leaves no parameter to train; remove a prefix"),
  ],
)
def test_rejects_frozen_prefixes_without_parameters_and_freezing_all(frozen, message):
  params = {"a": {"w": 1.0}, "b": {"w": 1.0}, "logit_scale": 1.0}
  with pytest.raises(UserError, match=message):
    optimizer.check_names(config(frozen=frozen), params)
