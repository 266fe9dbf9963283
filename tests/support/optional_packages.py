"""Markers of tests that need packages which not all pinned installations have: large ones, or of one platform."""

import importlib.util

import pytest


def _needs(*packages, reason):
  is_installed = all(importlib.util.find_spec(package) for package in packages)
  return pytest.mark.skipif(not is_installed, reason=f"{' or '.join(packages)} is not installed: {reason}")


needs_libtpu = _needs("libtpu", reason="no TPU compiler, which Linux on x86-64 alone has")
needs_torch = _needs("torch", reason="no PyTorch to compare with")
needs_transformers = _needs("torch", "transformers", reason="extra `caption`")
