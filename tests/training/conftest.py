"""A small corpus and a finished run on it."""

import pytest
from small_runs import config

from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.training import trainer


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
  """Dataset directory with moving_shapes/smoke."""
  folder = tmp_path_factory.mktemp("corpora")
  open_corpus(config(folder).data)
  return folder


@pytest.fixture(scope="session")
def finished(corpora, tmp_path_factory):
  """(workdir, results) of a run of the smoke recipe."""
  workdir = tmp_path_factory.mktemp("runs") / "finished"
  return workdir, trainer.train(config(corpora), workdir)
