"""Names of wrapped modules: the same model under any order and number of wrappers."""

import numpy as np
import pytest
from numeric import assert_same_arrays

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.wrapper_prefixes import strip_wrapper_prefixes

TENSORS = {
  "logit_scale": np.float32(1),
  "visual.transformer.resblocks.0.attn.in_proj_weight": np.arange(3),
  "visual.proj": np.zeros((2, 2)),
}
INNER = "visual.transformer._fsdp_wrapped_module.resblocks.0._checkpoint_wrapped_module.attn._orig_mod.in_proj_weight"


@pytest.mark.parametrize(
  "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.net.clip."]
)
def test_prefixes_of_all_tensors_are_removed(prefix):
  wrapped = {prefix + name: x for name, x in TENSORS.items()}
  assert_same_arrays(strip_wrapper_prefixes(wrapped, "x"), TENSORS)


def test_wrappers_of_submodules_are_removed_anywhere():
  items = [
    (f"_fsdp_wrapped_module.{INNER if 'attn' in name else name}", x) for name, x in TENSORS.items() if "." in name
  ]
  stripped = strip_wrapper_prefixes(dict(items), "x")
  assert stripped.keys() == {name for name in TENSORS if "." in name}


def test_prefix_of_some_tensors_is_kept():
  tensors = {"module.a": np.zeros(1), "b": np.zeros(1)}
  assert strip_wrapper_prefixes(tensors, "x").keys() == tensors.keys()


def test_counter_of_an_averaged_model_is_dropped():
  assert strip_wrapper_prefixes({"n_averaged": np.int64(3), "module.a": np.zeros(1)}, "x").keys() == {"a"}


def test_names_that_become_equal_are_refused():
  with pytest.raises(UserError, match=r"x: two tensors are named a\.b without the prefixes of wrappers; remove one"):
    strip_wrapper_prefixes({"a.b": np.zeros(1), "a._orig_mod.b": np.zeros(1)}, "x")


CLIP = {**TENSORS, "text_projection": np.zeros((2, 2))}  # both towers


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.module.", "module.model.", "model._orig_mod."])
@pytest.mark.parametrize("others", [["loss.weight"], ["loss.weight", *(f"teacher.{i}" for i in range(9))]])
def test_tensors_beside_a_wrapped_model_are_refused_by_name(prefix, others):
  tensors = {prefix + name: x for name, x in CLIP.items()}
  outer = "module." if prefix.startswith("module.") else ""  # which all tensors have
  tensors |= {outer + name: np.zeros(1) for name in others}
  listed = rf"names begin with \w+\.: {outer}loss\.weight" + (", .* and 5 more; remove" if others[1:] else "; remove")
  with pytest.raises(UserError, match=rf"x: {len(others)} tensors are not part of the model, whose {listed}"):
    strip_wrapper_prefixes(tensors, "x")


@pytest.mark.parametrize("beside", ["model.loss.weight", "module.a"])
def test_tensors_beside_an_unwrapped_model_are_kept(beside):
  tensors = {**CLIP, beside: np.zeros(1)}
  assert_same_arrays(strip_wrapper_prefixes(tensors, "x"), tensors)
