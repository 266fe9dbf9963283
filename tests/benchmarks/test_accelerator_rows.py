"""Measurements on a device whose peak is known, and what rows report as failures."""

import jax
import pytest

from benchmarks import accelerator_rows
from benchmarks.accelerator_results import Row, failure
from benchmarks.accelerator_rows import Bench
from clipvip_jax.cost_model import chips, flops
from clipvip_jax.cost_model.step_cost import OutOfMemory


@pytest.fixture
def bench(monkeypatch):
  """Measures in bfloat16 as on a v6e, in little time."""
  monkeypatch.setattr(chips, "chip_of_kind", lambda kind: chips.CHIPS["v6e"])
  monkeypatch.setattr(accelerator_rows, "REPEATS", 1)
  return Bench("bfloat16")


@pytest.mark.unoptimized
def test_a_step_has_its_share_of_the_peak_and_the_prediction_of_preflight(bench, monkeypatch):
  row = Row("step", "tiny", jax.device_count())
  result = bench.measure(row)
  counted = flops.step(accelerator_rows.config_of(row))
  per_second = (sum(counted.values()) - counted["recomputed"]) / result["seconds"]
  assert result["tflops"] == pytest.approx(per_second / 1e12)
  assert result["share_of_peak"] == pytest.approx(per_second / (918e12 * jax.device_count()))
  assert result["predicted_seconds"] == pytest.approx(result["hbm_bytes"] / 1638e9) and result["bound_by"] == "memory"
  # A step beyond the memory is not run.
  monkeypatch.setattr(accelerator_rows, "device_memory", lambda device: 1000)
  result = bench.measure(row)
  assert result["status"] == "out of memory" and "seconds" not in result


def test_attention_on_one_device_has_its_share_of_one_chip(bench):
  result = bench.measure(Row("attention", "tiny", 3, "xla"))
  tokens, patches = 4 + 12 * 16, 16
  operations = 3 * 3 * 4 * 32 * (12 * patches * (4 + patches) + 4 * tokens)
  assert result["share_of_peak"] == pytest.approx(operations / result["seconds"] / 918e12)
  assert result["forward_seconds"] > 0


def test_a_kernel_that_falls_back_to_xla_is_unsupported(bench, monkeypatch):
  monkeypatch.setattr(accelerator_rows, "resolve_implementation", lambda name, dtype: name)
  result = bench.measure(Row("attention", "b32", 1, "cudnn"))
  reason = "cudnn has no kernel for 49 queries and 53 keys; XLA computes them"
  assert result == {"status": "unsupported", "reason": reason}


def test_a_batch_that_the_devices_cannot_divide_is_unsupported(bench):
  result = bench.measure(Row("forward", "tiny", 3))
  assert result["status"] == "unsupported" and "batch=3 is not divisible by 8 devices" in result["reason"]


@pytest.mark.parametrize(
  ("error", "status", "reason"),
  [
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"), "out of memory", "RESOURCE_EXHAUSTED: Out of memory"),
    (OutOfMemory(3 * 2**30), "out of memory", "the step does not fit a chip's memory, which needs 3.0 GiB"),
    (RuntimeError("INTERNAL: no kernel"), "failed", "INTERNAL: no kernel"),
    (KeyError("caption"), "failed", "KeyError: 'caption'"),
  ],
)
def test_failures_are_results(error, status, reason):
  assert failure(error) == {"status": status, "reason": reason}
