"""A miniature corpus and a plain CLIP on disk."""

import miniature
import pytest


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
  return miniature.write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
  return miniature.write_clip(tmp_path_factory.mktemp("clip"))
