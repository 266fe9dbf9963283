"""Comparison of arrays with reference numbers."""

import numpy as np


def assert_close(actual, expected, relative=1e-5, name=""):
  """Fails where `actual` departs from `expected` by more than `relative` of its largest magnitude."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
  error = np.abs(actual - expected).max(initial=0.0)
  bound = relative * np.abs(expected).max(initial=0.0)
  assert error <= bound, f"{name}: off by {error:.3g}, allowed {bound:.3g}"


def assert_same_arrays(actual, expected):
  """Asserts that two {name: array} have the same names and equal arrays."""
  assert actual.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(actual[name], x, name)
