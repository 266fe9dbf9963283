"""Reuse of freed memory."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from clipvip_jax.utils.allocator import keep_freed_memory
if sys.argv[1] == "keep":
  keep_freed_memory()
def use_and_free():
  buffers = [np.ones(2**20, np.uint8) for _ in range(6)]
for _ in range(3):
  use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
  use_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator adapts")
def test_freed_buffers_are_used_again_without_page_faults():
  kept, default = (_page_faults(mode) for mode in ("keep", "default"))
  assert kept < 100 < default


def _page_faults(mode: str) -> int:
  # Huge pages, which `make` asks for, would leave two or three faults a round of the 1,500 that are counted here.
  environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
  command = [sys.executable, "-c", FAULTS, mode]
  return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
