"""Fixture with fakes of the cluster tools, so that no test reaches a real one."""

import pytest
from stand_ins import Machine


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path / "bin")
