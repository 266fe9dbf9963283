"""The report of a training step's cost: what must fit, and the largest batch, with memory use given by each test."""

import jax
import pytest

from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model import chips, step_cost
from clipvip_jax.cost_model.step_report import step_report, with_largest_step
from clipvip_jax.utils.errors import UserError

GIB = 2**30


@pytest.mark.parametrize(
  ("dropout", "unmasked_fraction", "expected"), [(0.5, 0.1, 0.0), (0.5, 0.0, 0.5), (0.0, 0.1, 0.0)]
)
def test_last_steps_without_patch_dropout_must_fit(dropout, unmasked_fraction, expected):
  config = post_pretrain.get_config("b32")
  config.model.patch_dropout, config.train.unmasked_fraction = dropout, unmasked_fraction
  assert with_largest_step(config).model.patch_dropout == expected
  assert config.model.patch_dropout == dropout


@pytest.fixture
def four_chips(monkeypatch):
  monkeypatch.setattr(chips, "devices", lambda topology: jax.devices()[:4])


@pytest.fixture
def small_recipe():
  config = post_pretrain.get_config("smoke")
  config.train.batch_size = 32
  return config


def cost(memory):
  return step_cost.Cost({"all": memory}, 1.0, {"vision": 1.0}, (), (), {"video": 1, "recomputed": 0}, 1.0)


def test_largest_batch_is_extrapolated_where_the_compiler_rejects_the_batch(monkeypatch, four_chips, small_recipe):
  def measure(config, mesh):
    if config.train.batch_size > 16:
      raise step_cost.OutOfMemory(17.5 * GIB)
    return cost(10 * GIB)

  monkeypatch.setattr(step_cost, "measure", measure)
  report = step_report(small_recipe, "v5e:2x2", largest_batch=True)
  assert not report["fits"] and report["memory_used"] == 17.5 * GIB and "seconds" not in report
  assert report["largest_batch"] == 28  # 10 GiB for 4 clips per chip, 17.5 for 8: 16 for 7.2, so 7 on each of 4


def test_largest_batch_of_a_linear_model_is_exact(monkeypatch, four_chips, small_recipe):
  # 1 GiB and 1.25 GiB per clip of a chip, of 16 GiB: 12 clips fit exactly.
  monkeypatch.setattr(
    step_cost, "measure", lambda config, mesh: cost((1 + 1.25 * (config.train.batch_size // 4)) * GIB)
  )
  report = step_report(small_recipe, "v5e:2x2", largest_batch=True)
  assert report["fits"] and report["clips_of_a_chip"] == 8 and report["largest_batch"] == 48


@pytest.mark.parametrize("memory", [lambda clips: 0, lambda clips: GIB, lambda clips: GIB / clips])
def test_largest_batch_is_unknown_where_memory_does_not_grow_with_it(monkeypatch, four_chips, small_recipe, memory):
  monkeypatch.setattr(step_cost, "measure", lambda config, mesh: cost(memory(config.train.batch_size)))
  assert step_report(small_recipe, "v5e:2x2", largest_batch=True)["largest_batch"] is None


def test_recipe_is_checked_for_the_devices_of_the_topology(four_chips, small_recipe):
  small_recipe.train.batch_size = 18
  with pytest.raises(UserError, match=r"train\.batch_size=18 .*divi.*4"):
    step_report(small_recipe, "v5e:2x2")


@pytest.mark.parametrize(
  ("topology", "name", "dtype", "message"),
  [
    ("v5e:2x2", "cudnn", "bfloat16", r"attention=cudnn needs .*; this run computes in bfloat16 on TPU v5 lite; use"),
    ("v5p:2x2x1", "cudnn", "float32", r"attention=cudnn needs .*; this run computes in float32 on TPU v5; use"),
    ("h100:4", "cudnn", "float32", r"attention=cudnn needs .*; this run computes in float32 on NVIDIA H100; use"),
  ],
)
def test_attention_that_a_run_on_the_chips_refuses_is_refused(four_chips, small_recipe, topology, name, dtype, message):
  small_recipe.model.update({"attention": name, "dtype": dtype})
  with pytest.raises(UserError, match=message):
    step_report(small_recipe, topology)


@pytest.mark.parametrize(("topology", "name"), [("v5e:2x2", "pallas"), ("h100:4", "pallas"), ("h100:4", "cudnn")])
def test_attention_that_the_chips_have_is_accepted(monkeypatch, four_chips, small_recipe, topology, name):
  small_recipe.model.update({"attention": name, "dtype": "bfloat16"})
  monkeypatch.setattr(step_cost, "measure", lambda config, mesh: cost(GIB))
  assert step_report(small_recipe, topology)["fits"]
