"""Published names and layouts <-> parameters."""

import ml_dtypes
import numpy as np
import pytest
import tiny
from flax import traverse_util

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import names_clip_vip


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


@pytest.mark.parametrize(
  ("name", "overrides"),
  [("vip_tiny.safetensors", {}), ("clip_tiny.safetensors", {"added_proxies": 0, "time_positions": 0})],
)
def test_converted_parameters_have_the_names_and_shapes_of_the_model(golden, name, overrides):
  expected = flat(tiny.random_params(tiny.model(**overrides)))
  converted = flat(tiny.params(golden, name))
  assert {key: x.shape for key, x in converted.items()} == {key: x.shape for key, x in expected.items()}


@pytest.mark.parametrize("prefix", ["", names_clip_vip.PREFIX])
def test_conversion_round_trips(golden, prefix):
  tensors = {prefix + name.removeprefix(names_clip_vip.PREFIX): x for name, x in golden("vip_tiny.safetensors").items()}
  converted = names_clip_vip.from_flat(names_clip_vip.to_flat(tensors, "x"), prefix)
  assert converted.keys() == tensors.keys()
  for name, value in tensors.items():
    np.testing.assert_array_equal(converted[name], value, name)


def test_names_of_parameters_round_trip(golden):
  for name in golden("vip_tiny.safetensors"):
    if not names_clip_vip.UNUSED.search(name):
      published = name.removeprefix(names_clip_vip.PREFIX)
      assert names_clip_vip.published_name(names_clip_vip.param_name(name)) == published


def test_unknown_tensor_is_refused_by_name():
  with pytest.raises(
    UserError, match=r"x\.pt: 1 tensors are not part of CLIP or CLIP-ViP: visual\.layer4\.weight \(2, 2\)"
  ):
    names_clip_vip.to_flat({"visual.layer4.weight": np.zeros((2, 2))}, "x.pt")


@pytest.mark.parametrize("tower", ["text", "vision"])
@pytest.mark.parametrize("ids", [np.arange(16) + 3, np.arange(16)[::-1], np.zeros(16, np.int64)])
def test_position_ids_other_than_ascending_are_refused(golden, tower, ids):
  name = f"clipmodel.{tower}_model.embeddings.position_ids"
  tensors = golden("vip_tiny.safetensors")
  with pytest.raises(UserError, match=rf"x: {name} is not 0, 1, 2, \.\.\.; other position ids are not supported"):
    names_clip_vip.to_flat({**tensors, name: ids[None]}, "x")


@pytest.mark.parametrize("dtype", [np.int32, np.float16, ml_dtypes.bfloat16])  # of which the last rounds ids
def test_position_ids_of_any_type_are_accepted(golden, dtype):
  tensors = golden("clip_tiny.safetensors")
  expected = names_clip_vip.to_flat(tensors, "x")
  name = "vision_model.embeddings.position_ids"
  assert names_clip_vip.to_flat({**tensors, name: np.arange(577).astype(dtype)[None]}, "x").keys() == expected.keys()
