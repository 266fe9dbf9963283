"""Claims of a workdir: lock, recorded configuration, corpora and tokenizer."""

import json
import os
import pathlib

import pytest
from small_runs import config

from clipvip_jax.runs import workdir_lock
from clipvip_jax.training import setup
from clipvip_jax.training.locked_workdir import locked_workdir
from clipvip_jax.utils.errors import UserError


def test_records_configuration_corpora_and_vocabulary(corpora, tmp_path):
  components = setup.prepare(config(corpora), tmp_path / "run")
  with locked_workdir(components):
    assert json.loads((tmp_path / "run/config.json").read_text())["loss"] == components.config.loss
    assert json.loads((tmp_path / "run/corpus.json").read_text()) == components.corpus_identity
    assert (tmp_path / "run/tokenizer.json").exists()


def test_rejects_a_second_run_in_the_same_workdir(corpora, tmp_path):
  components = setup.prepare(config(corpora), tmp_path)
  message = rf"in use by process {os.getpid()} on"
  with workdir_lock.workdir_lock(tmp_path), pytest.raises(UserError, match=message), locked_workdir(components):
    pass
  with locked_workdir(components):  # the lock is released with the block
    pass


def test_checks_the_configuration_again_under_the_lock(corpora, tmp_path):
  first, second = (setup.prepare(config(corpora, seed=seed), tmp_path) for seed in (0, 1))
  with locked_workdir(first):
    pass
  with pytest.raises(UserError, match=r"seed: 0 .*1 .*--workdir"), locked_workdir(second):
    pass
  assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_rejects_a_workdir_that_is_not_writable(corpora):
  components = setup.prepare(config(corpora), pathlib.Path("/proc/never"))
  with pytest.raises(UserError, match=r"--workdir=/proc/never .*writ"), locked_workdir(components):
    pass
