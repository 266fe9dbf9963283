"""Hashes that detect repetitions."""

import array

from clipvip_jax.data.engine.text_hash import find_repeated, hash_text


def test_repeated_texts_are_counted():
  hashes = array.array("Q", map(hash_text, ["a", "b", "a", "\ud83d", "a", "b"]))
  assert find_repeated(hashes) == {hash_text("a"): 3, hash_text("b"): 2}
  assert find_repeated(array.array("Q")) == {}
