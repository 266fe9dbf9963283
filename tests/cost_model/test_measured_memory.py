"""Memory of a finished run, beside the estimate for its recipe."""

import json

import pytest

from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model.measured_memory import measured_memory
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError


def write_run(folder, config, *peaks):
  results = {"splits": {}, "config": config_tree.to_json_dict(config)}
  (folder / "results.json").write_text(json.dumps(results))
  rows = [{"kind": "train", "step": step, "loss": 1.0, **peak} for step, peak in enumerate(peaks)]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_is_the_largest_of_the_history(tmp_path):
  config = post_pretrain.get_config("smoke")
  write_run(tmp_path, config, {"peak_memory": 5}, {}, {"peak_memory": 7})
  config.host.log_every = 1  # does not change the step
  assert measured_memory(tmp_path, config) == 7


def test_a_run_with_another_step_or_without_a_measurement_is_refused(tmp_path):
  config = post_pretrain.get_config("smoke")
  write_run(tmp_path, config, {})
  with pytest.raises(UserError, match=r"--run=.* has no peak_memory .*; omit --run"):
    measured_memory(tmp_path, config)
  config.train.batch_size = 32
  with pytest.raises(UserError, match=r"--run=.* has another config \(train\.batch_size: 16 there, 32 here\); use"):
    measured_memory(tmp_path, config)
