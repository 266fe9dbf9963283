"""Reuse of freed memory by the C library's allocator."""

import functools

import numpy as np

# The most that glibc adapts to (mallopt(3), M_MMAP_THRESHOLD), less the allocator's own bytes.
_BYTES = 32 * 2**20 - 2**16


@functools.cache
def keep_freed_memory() -> None:
  """Makes glibc keep freed buffers of up to 32 MiB for the next ones.

  By default it returns them to the system and gets new pages for the next buffer, which costs more time than to convert
  a frame to RGB. It adapts when a large buffer is freed: afterwards, only larger ones are returned. The buffer here is
  not written to, so that it takes no memory. Other C libraries are not affected.
  """
  np.empty(_BYTES, np.uint8)
