"""A small corpus and a finished run on it."""

import pytest
from small_runs import config

from clipvip_jax.training import trainer


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  """A folder with moving_shapes/smoke; built by the first run that asks for it."""
  return tmp_path_factory.mktemp("corpora")


@pytest.fixture(scope="session")
def finished(corpus, tmp_path_factory):
  """A run of the smoke recipe."""
  folder = tmp_path_factory.mktemp("runs") / "finished"
  return folder, trainer.train(config(corpus), folder)
