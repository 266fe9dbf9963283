"""The preflight command: training steps compiled for hardware that is not present."""

import json
import subprocess
import sys

import jax
import pytest
from optional_packages import needs_libtpu
from project_paths import GOLDEN, ROOT

from clipvip_jax import preflight
from clipvip_jax.cost_model import step_cost
from clipvip_jax.models import clip_vip
from clipvip_jax.training import model_sizes
from clipvip_jax.utils import config_tree, recipe_flags
from clipvip_jax.utils.errors import UserError

SMALL = ("--config=configs/post_pretrain.py:smoke", "--config.loss=fc")


def test_unknown_topology_is_refused():
  with pytest.raises(UserError, match="--topology=v9:4x8: unknown chip 'v9'; allowed: v5e:4x8"):
    preflight.main([*SMALL, "--topology=v9:4x8"])


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("--config.train.batch_size=18", r"train\.batch_size=18 .*divi.*4.*16.*20"),
    ("--config.mesh.fsdp=3", "mesh.fsdp=3.*4 devices"),
    ("--config.train.batch=18", "config.train has no field 'batch'"),
    ("--topolgy=v5e:2x2", "topolgy"),
    ("more", "unexpected argument 'more'"),
  ],
)
def test_bad_input_is_refused_before_compiling(override, message):
  with pytest.raises(UserError, match=message):
    preflight.main([*SMALL, "--topology=h100:4", override])


def test_overrides_are_applied_to_the_recipe():
  assert recipe_flags.parse_config([*SMALL, "--config.train.batch_size=32"]).train.batch_size == 32


@pytest.mark.slow
def test_small_step_for_eight_gpus(tmp_path, capsys):
  # A batch large enough to make the optimizer's arithmetic negligible.
  batch = "--config.train.batch_size=256"
  preflight.main([*SMALL, batch, "--config.train.ema=0.99", "--topology=h100:8", f"--json={tmp_path / 'report.json'}"])
  printed = capsys.readouterr().out
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["fits"]
  assert report["flops_compiled"] == pytest.approx(sum(report["flops_counted"].values()), rel=0.1)
  assert report["sent"] <= 1.25 * report["sent_needed"]
  shapes = clip_vip.parameter_shapes(recipe_flags.parse_config(SMALL).model)
  params = sum(x.size for x in jax.tree.leaves(shapes))
  assert report["memory"]["parameters"] == report["memory"]["average of the parameters"] == 4 * params
  assert report["memory"]["optimizer moments"] == pytest.approx(8 * params, rel=0.01)
  for line in ("(estimated", "of what is counted", "the method needs", "bound by memory", ": fits"):
    assert line in printed


def test_step_that_does_not_fit_exits_with_its_code(monkeypatch, capsys):
  cost = step_cost.Cost({"parameters": 70e9}, 1.0, {"vision": 1.0}, (), (), {"video": 1, "recomputed": 0}, 1.0)
  monkeypatch.setattr(step_cost, "measure", lambda config, mesh: cost)
  with pytest.raises(SystemExit) as stop:
    preflight.main([*SMALL, "--topology=h100:8"])
  assert stop.value.code == preflight.DOES_NOT_FIT
  assert "65.19 GiB of 74.51 GiB, of which JAX takes 55.88 GiB: does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
  "overrides",
  [
    (
      f"--config.init_from={GOLDEN / 'vip_tiny.safetensors'}",
      "--config.sizes_from_weights=True",
      "--config.data.text_length=16",
    ),
    (),
  ],
  ids=["sizes of weights", "sizes of the recipe"],
)
def test_the_memory_of_a_run_with_the_same_sizes_is_compared(overrides, tmp_path, monkeypatch, capsys):
  config = model_sizes.fill_sizes(recipe_flags.parse_config([*SMALL, *overrides]))
  results = {"splits": {}, "config": config_tree.to_json_dict(config)}
  (tmp_path / "results.json").write_text(json.dumps(results))
  (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": 1.0, "peak_memory": 2**31}))
  cost = step_cost.Cost({"parameters": 1e9}, 1.0, {"vision": 1.0}, (), (), {"video": 1, "recomputed": 0}, 1.0)
  monkeypatch.setattr(step_cost, "measure", lambda config, mesh: cost)
  run = [*SMALL, *overrides, "--topology=h100:8", f"--run={tmp_path}"]
  preflight.main([*run, f"--json={tmp_path / 'report.json'}"])
  assert json.loads((tmp_path / "report.json").read_text())["memory_measured"] == 2**31
  assert "2.00 GiB" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"--run=.* has another config \(model\.embed_dim: "):
    preflight.main([*run, "--config.sizes_from_weights=False", "--config.model.embed_dim=48"])


@pytest.mark.slow
@needs_libtpu
def test_small_step_for_four_tpus_with_sharded_parameters(tmp_path):
  # In a subprocess: libtpu holds its locks until the process ends.
  report = tmp_path / "report.json"
  options = ["--topology=v5e:2x2", "--config.mesh.fsdp=2", f"--json={report}"]
  command = [sys.executable, "-m", "clipvip_jax.preflight", *SMALL, *options]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert "of 16.00 GiB: fits" in done.stdout
  assert not done.stderr
  content = json.loads(report.read_text())
  # Parameters that were not gathered would move activations, in an all-to-all.
  assert set(content["collectives"]) == {"all-gather", "all-reduce", "reduce-scatter"}
  assert content["sent"] <= 1.25 * content["sent_needed"]
