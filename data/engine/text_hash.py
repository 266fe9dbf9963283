"""64-bit hashes of texts: 8 bytes per clip detect repetitions in corpora of any size."""

from __future__ import annotations

import array
import hashlib


def hash_text(text: str) -> int:
  """Returns a hash from 0 to 2^64 - 1."""
  return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def find_repeated(hashes: array.array[int]) -> dict[int, int]:
  """Returns {hash: count} of the hashes that occur at least twice."""
  import numpy as np

  values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
  return dict(zip(values[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True))
