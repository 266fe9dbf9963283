"""Launchers run where there are stand-ins alone."""

import pytest
from stand_ins import Machine


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path / "bin")
