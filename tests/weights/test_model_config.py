"""`config.model` inferred from weights and hints."""

import numpy as np
import pytest
import tiny
from project_paths import GOLDEN
from safetensors.numpy import load_file

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import model_config, names_clip_vip
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(vision_heads=4, text_heads=4)


def weights():
  return names_clip_vip.to_flat(load_file(GOLDEN / "vip_tiny.safetensors"), "vip_tiny")


def test_config_is_inferred_from_shapes_and_hints():
  config = model_config.from_weights(weights(), HEADS, "quick_gelu", "vip_tiny")
  assert config.to_dict() == tiny.config().to_dict()


def test_metadata_round_trips():
  config = tiny.config()
  first = Hints(config.activation, config.vision.heads, None, {}, "full", 6, 40, "tokenizer.json", 2, "center")
  assert model_config.hints_from_metadata(model_config.to_metadata(first)) == first


def test_earlier_hints_take_precedence():
  assert Hints("gelu", None, 8) | Hints("quick_gelu", 4, 2) == Hints("gelu", 4, 8)


def test_missing_block_is_refused():
  params = {name: x for name, x in weights().items() if "vision/transformer/block_0/" not in name}
  with pytest.raises(UserError, match=r"vip_tiny: the vision tower has blocks \[1\], expected 0, 1, 2, \.\.\. without"):
    model_config.from_weights(params, HEADS, "quick_gelu", "vip_tiny")


def test_patches_that_form_no_square_grid_are_refused():
  params = {**weights(), "vision/position_embedding": np.zeros((12, 64), np.float32)}
  with pytest.raises(UserError, match="vision/position_embedding has 11 patches, which do not form a square grid"):
    model_config.from_weights(params, HEADS, "quick_gelu", "vip_tiny")


@pytest.mark.parametrize("size", [0, -1, 2.5, "4", True])
def test_size_must_be_a_positive_integer(size):
  with pytest.raises(UserError, match=r"width=.* must be an integer of at least 1"):
    model_config.checked_size(size, "width")


@pytest.mark.parametrize("end_token", [5, 98, 100, 49407])
def test_end_token_that_is_not_the_last_id_of_the_weights_is_refused(end_token):
  hints = Hints(vision_heads=4, text_heads=4, end_token=end_token)
  with pytest.raises(
    UserError, match=rf"eos_token_id={end_token} is not supported; CLIP's end token is the last .*, 99"
  ):
    model_config.from_weights(weights(), hints, "quick_gelu", "vip_tiny")


@pytest.mark.parametrize("end_token", [None, model_config.LARGEST_ID, 99])
def test_end_token_that_is_the_largest_id_of_a_text_is_accepted(end_token):
  hints = Hints(vision_heads=4, text_heads=4, end_token=end_token)
  assert model_config.from_weights(weights(), hints, "quick_gelu", "vip_tiny").text.vocab_size == 100


@pytest.mark.parametrize("change", [{"activation": "gelu"}, {"temporal": "full"}, {"sizes": {"text.width": 3}}])
def test_hints_that_contradict_each_other_are_refused(change):
  first = Hints("quick_gelu", 4, sizes={"text.width": 2}, temporal="mean")
  first.check_agreement(Hints("quick_gelu", None, 8, {"vision.width": 3}), "the file")
  with pytest.raises(UserError, match=r"contradicts the file, which has .*; fix or remove one of them"):
    first.check_agreement(Hints(**change), "the file")


def test_unknown_property_of_this_project_is_refused():
  with pytest.raises(UserError, match=r"clipvip_jax\.tint is unknown; use the version of this project that wrote it"):
    model_config.hints_from_metadata({"clipvip_jax.tint": "blue", "format": "pt"})
