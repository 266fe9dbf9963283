"""Average of the parameters: which it holds, and its values."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from clipvip_jax.runs.train_state import AveragedTrainState, TrainState
from clipvip_jax.training.parameter_average import start_average, update_average


def config(ema, *frozen):
  return ConfigDict({"train": {"ema": ema}, "optimizer": {"frozen": frozen}})


def params(n):
  rng = np.random.default_rng(n)
  draw = rng.standard_normal
  vision, text = {"scale": draw(3, np.float32)}, {"bias": draw(2, np.float32)}
  return {"vision": vision, "text": text, "logit_scale": np.float32(rng.normal())}


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_equals_a_numpy_loop(decay):
  state = start_average(TrainState(np.int32(0), params(0), ()), config(decay))
  scale, bias, logit_scale = params(0)["vision"]["scale"], params(0)["text"]["bias"], params(0)["logit_scale"]
  for n in range(1, 30):
    state = update_average(state.replace(step=np.int32(n), params=params(n)), config(decay))
    d = min(decay, (1 + n) / (10 + n))
    scale = d * scale + (1 - d) * params(n)["vision"]["scale"].astype(np.float64)
    bias = d * bias + (1 - d) * params(n)["text"]["bias"].astype(np.float64)
    logit_scale = d * logit_scale + (1 - d) * float(params(n)["logit_scale"])
  for actual, expected in (
    (state.eval_params["vision"]["scale"], scale),
    (state.eval_params["text"]["bias"], bias),
    (state.eval_params["logit_scale"], logit_scale),
  ):
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(state.params["text"]["bias"], params(29)["text"]["bias"])


def test_frozen_parameters_have_no_average():
  state = start_average(TrainState(np.int32(0), params(0), ()), config(0.9, "text/"))
  assert isinstance(state, AveragedTrainState) and set(state.average) == {"vision", "logit_scale"}
  state = update_average(state.replace(step=np.int32(1), params=params(1)), config(0.9, "text/"))
  assert state.eval_params["text"]["bias"] is state.params["text"]["bias"]
  assert set(state.average) == {"vision", "logit_scale"} and set(state.eval_params) == set(state.params)


def test_no_average_leaves_the_state_as_it_is():
  state = TrainState(np.int32(0), params(0), ())
  assert start_average(state, config(0.0)) is update_average(state, config(0.0)) is state
  assert state.eval_params is state.params
