"""OpenCLIP's names and layouts <-> HuggingFace CLIP's."""

import numpy as np
import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import names_openclip

OPENCLIP = "openclip_tiny.safetensors"


def test_openclip_names_are_detected(golden):
  assert names_openclip.is_openclip(golden(OPENCLIP))
  assert not names_openclip.is_openclip(golden("clip_tiny.safetensors"))


def test_renamed_tensors_equal_those_of_the_huggingface_file(golden):
  renamed, expected = names_openclip.to_published(golden(OPENCLIP), "x"), golden("clip_tiny.safetensors")
  assert renamed.keys() == {name for name in expected if not name.endswith("position_ids")}
  for name, tensor in renamed.items():
    np.testing.assert_array_equal(tensor.reshape(expected[name].shape), expected[name], name)


def test_conversion_round_trips(golden):
  tensors = golden(OPENCLIP)
  converted = names_openclip.from_published(names_openclip.to_published(tensors, "x"))
  assert converted.keys() == tensors.keys() - set(names_openclip.UNUSED)
  for name, tensor in converted.items():
    np.testing.assert_array_equal(tensor, tensors[name], name)


def test_text_tower_in_a_submodule_is_renamed_alike(golden):
  tensors = golden(OPENCLIP)
  nested = {name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": x for name, x in tensors.items()}
  assert names_openclip.is_openclip(nested)
  assert names_openclip.to_published(nested, "x").keys() == names_openclip.to_published(tensors, "x").keys()


def test_unknown_names_are_kept():
  assert list(names_openclip.to_published({"visual.layer1.weight": np.zeros(2)}, "x")) == ["visual.layer1.weight"]


def test_two_tensors_for_one_name_are_refused():
  tensors = {"ln_final.bias": np.zeros(2), "text.ln_final.bias": np.zeros(2)}
  with pytest.raises(UserError, match=r"x: two tensors for text_model\.final_layer_norm\.bias; remove one of them"):
    names_openclip.to_published(tensors, "x")


@pytest.mark.parametrize("shape", [(), (4, 2)])
def test_fused_matrix_that_cannot_be_split_is_refused(shape):
  tensors = {"transformer.resblocks.0.attn.in_proj_weight": np.zeros(shape)}
  with pytest.raises(UserError, match=r"in_proj_weight .* cannot be split into query, key and value of equal size"):
    names_openclip.to_published(tensors, "x")


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float16).min])
def test_causal_mask_is_dropped(hidden):
  mask = np.triu(np.full((5, 5), hidden, np.float16), 1)
  assert names_openclip.to_published({"attn_mask": mask, "logit_scale": np.zeros(())}, "x").keys() == {"logit_scale"}


@pytest.mark.parametrize("mask", [np.zeros((5, 5)), np.full((5, 5), -np.inf), np.zeros(5), np.zeros((4, 5))])
def test_other_masks_are_refused(mask):
  with pytest.raises(UserError, match="x: attn_mask is not a causal mask"):
    names_openclip.to_published({"attn_mask": mask}, "x")
