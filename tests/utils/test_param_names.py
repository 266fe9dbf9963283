"""Names of parameters."""

import flax.struct
import jax
import numpy as np

from clipvip_jax.utils.param_names import param_name


class State(flax.struct.PyTreeNode):
  params: dict
  moments: tuple


def test_param_name_joins_keys_fields_and_indices():
  state = State(params={"vision": {"block_0": {"kernel": np.zeros(2)}}}, moments=({"scale": np.zeros(2)}, np.zeros(2)))
  paths, _ = zip(*jax.tree_util.tree_leaves_with_path(state), strict=True)
  assert [param_name(path) for path in paths] == ["params/vision/block_0/kernel", "moments/0/scale", "moments/1"]
