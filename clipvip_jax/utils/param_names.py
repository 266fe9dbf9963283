"""Names of parameters: their paths in the tree, as in "vision/transformer/block_0/attention/query/kernel"."""

from typing import Any

import jax


def param_name(path: tuple[Any, ...]) -> str:
  """Joins a key path of `jax.tree_util.tree_map_with_path` with slashes."""
  return jax.tree_util.keystr(path, simple=True, separator="/")
