"""Memory of accelerators, as their backend measures it."""

import jax


def peak_bytes() -> int:
  """Returns the largest number of bytes in use since the start, on the fullest device of this process; 0: unknown.

  Backends of CPUs do not measure it.
  """
  return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())
