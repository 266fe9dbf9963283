"""High-water mark of devices."""

import types

import jax
import pytest

from clipvip_jax.distributed import device_memory


@pytest.mark.parametrize(
  ("stats", "expected"),
  [
    ([{"bytes_in_use": 1, "peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}], 7),
    ([None, None], 0),
    ([{"bytes_in_use": 1}], 0),
  ],
)
def test_is_that_of_the_fullest_device_where_the_backend_measures_it(monkeypatch, stats, expected):
  devices = [types.SimpleNamespace(memory_stats=lambda value=value: value) for value in stats]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert device_memory.peak_bytes() == expected


def test_cpu_devices_do_not_measure_it():
  assert device_memory.peak_bytes() == 0
