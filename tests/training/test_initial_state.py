"""Initial state: checkpoint, initial weights or random parameters."""

import dataclasses

import jax
import numpy as np
import pytest
from project_paths import ROOT
from small_runs import config

from clipvip_jax.runs import initial_weights, workdir
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.training import setup, trainer
from clipvip_jax.training.initial_state import load_initial_weights, restore_or_initialize
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import load_params


@pytest.mark.slow
def test_rejects_weights_of_another_size(corpora, tmp_path):
  weights = ROOT / "tests/golden/vip_tiny.safetensors"
  components = setup.prepare(config(corpora, init_from=str(weights)), tmp_path)
  with pytest.raises(
    UserError, match=r"does not fit config\.model: its weights have text\.vocab_size=100, not 512, .*sizes_from_w"
  ):
    load_initial_weights(components.config, components.workdir)


@pytest.mark.parametrize("name", ["clip_tiny.safetensors", "vip_tiny.pt", "openclip_tiny.safetensors"])
def test_weights_of_another_size_are_refused_before_a_corpus_is_opened(tmp_path, monkeypatch, name):
  monkeypatch.setattr(setup, "open_corpus", lambda *_: pytest.fail("opened a corpus"))
  with pytest.raises(
    UserError, match=rf"{name}' does not fit config\.model: its weights have text\.vocab_size=100, not"
  ):
    trainer.train(config(tmp_path, init_from=str(ROOT / "tests/golden" / name)), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_run_without_init_from_loads_no_weights(corpora, tmp_path):
  assert load_initial_weights(config(corpora), tmp_path) == {}


def test_a_run_with_a_checkpoint_loads_no_weights(corpora, tmp_path):
  gone = config(corpora, init_from=str(tmp_path / "gone.safetensors"))
  workdir.claim(tmp_path, config_tree.to_json_dict(gone), setup.prepare(config(corpora), tmp_path).corpus_identity)
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  assert load_initial_weights(gone, tmp_path) == {}


def test_weights_that_were_replaced_since_the_run_started_are_refused(corpora, tmp_path, monkeypatch):
  source = str(ROOT / "tests/golden/vip_tiny.safetensors")
  components = setup.prepare(config(corpora, init_from=source), tmp_path)
  monkeypatch.setattr(load_params, "load_params", lambda *_, **__: {"logit_scale": np.float32(1.25)})
  initial_weights.record_initial_weights(tmp_path, source, load_initial_weights(components.config, components.workdir))
  assert load_initial_weights(components.config, components.workdir) == {"logit_scale": 1.25}
  monkeypatch.setattr(load_params, "load_params", lambda *_, **__: {"logit_scale": np.float32(1.5)})
  with pytest.raises(UserError, match=r"vip_tiny\.safetensors' has other weights .* than when the run started"):
    load_initial_weights(components.config, components.workdir)


@pytest.mark.slow
@pytest.mark.unoptimized
def test_a_checkpoint_that_vanishes_is_not_replaced_by_random_parameters(corpora, tmp_path):
  components = setup.prepare(config(corpora), tmp_path)
  components.config.unlock()
  components.config.init_from = str(tmp_path / "gone.safetensors")
  with pytest.raises(UserError, match=r"gone\.safetensors"):
    restore_or_initialize(components, Checkpoints(tmp_path / "checkpoints", 1), {})


@pytest.mark.slow
@pytest.mark.unoptimized
def test_initializes_from_weights_and_restores_its_checkpoint_exactly(corpora, tmp_path):
  components = setup.prepare(config(corpora, **{"mesh.fsdp": 2}), tmp_path)
  checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
  scale = np.float32(1.25)
  state, step = restore_or_initialize(components, checkpoints, {"logit_scale": scale})
  assert step == 0 and state.params["logit_scale"] == scale
  assert initial_weights.read_initial_weights(tmp_path)["sha256"] == initial_weights.digest_params(
    {"logit_scale": scale}
  )
  kernel = state.params["vision"]["transformer"]["block_0"]["mlp"]["up"]["kernel"]
  assert np.std(kernel) > 0  # random where there is no weight
  jax.tree.map(
    lambda x, abstract: np.testing.assert_equal(x.sharding, abstract.sharding), state, components.abstract_state
  )

  batch_size = components.config.train.batch_size
  saved = jax.device_get(state.replace(step=np.int32(3)))
  checkpoints.save(state.replace(step=state.step + 3), {"next_record": 3 * batch_size})
  checkpoints.close()
  resumed, step = restore_or_initialize(
    components, Checkpoints(tmp_path / "checkpoints", 1), {"logit_scale": scale + 1}
  )
  assert step == 3
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), saved)
  shorter = dataclasses.replace(components, total_steps=2)
  with pytest.raises(UserError, match=r"the checkpoint of step 3 is beyond the end of the run, step 2; delete or move"):
    restore_or_initialize(shorter, Checkpoints(tmp_path / "checkpoints", 1), {})
