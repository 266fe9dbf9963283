"""Tables of configuration fields: read, fixed, without effect, unknown."""

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import config_fields
from clipvip_jax.weights.config_fields import Fields

FIELDS = Fields(frozenset({"width"}), {"eps": (1e-5,), "bias": (False, None)}, frozenset({"dropout"}))
TABLES = {name: value for name, value in vars(config_fields).items() if isinstance(value, Fields)}


@pytest.mark.parametrize("section", [{}, {"width": 3}, {"eps": 0.00001, "bias": None}, {"dropout": 0.5, "bias": False}])
def test_used_plain_and_supported_values_pass(section):
  FIELDS.check(section, "text.")


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"eps": 1e-6}, r"text\.eps=1e-06 is not supported; CLIP has 1e-5$"),
    ({"bias": True}, r"text\.bias=True is not supported; CLIP has False$"),
    ({"width": 3, "rope": 1}, r"text\.rope is unknown and may change the features; remove the field if it does not$"),
    ({"eps": {"x": "y" * 200}}, r"text\.eps=.{1,90} is not supported"),
    ({"rope": 1, "eps": 1e-6}, r"text\.eps=1e-06 is not supported"),
    ({"conditional": 1, "dropout": 0.5, "bias": "clipseg"}, r"text\.bias='clipseg' is not supported"),
    ({"a\nb": 1}, r"text\.\S+ is unknown"),
  ],
)
def test_unsupported_values_and_unknown_fields_are_refused_in_one_line(section, message):
  with pytest.raises(UserError, match=message) as error:
    FIELDS.check(section, "text.")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_field_is_in_one_table_only(name):
  fields = TABLES[name]
  groups = [set(fields.used), set(fields.fixed), set(fields.plain)]
  assert sum(map(len, groups)) == len(set.union(*groups))


def test_values_that_transformers_writes_for_clip_pass():
  tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
  tower |= {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "attention_dropout": 0.0, "initializer_factor": 1.0}
  config = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 32,
    "logit_scale_init_value": 2.6592,
  }
  config_fields.HUGGINGFACE.check(config | {"torch_dtype": "float32", "transformers_version": "4.57.0"}, "")
  config_fields.HUGGINGFACE_TEXT.check(tower | {"model_type": "clip_text_model", "vocab_size": 49408}, "text_config.")
  config_fields.HUGGINGFACE_VISION.check(
    tower | {"model_type": "clip_vision_model", "num_channels": 3}, "vision_config."
  )


@pytest.mark.parametrize(
  ("table", "change"),
  [
    ("HUGGINGFACE", {"model_type": "siglip"}),
    ("HUGGINGFACE_TEXT", {"layer_norm_eps": 1e-6}),
    ("HUGGINGFACE_VISION", {"num_channels": 1}),
    ("OPENCLIP_VISION", {"pool_type": "avg"}),
    ("OPENCLIP_TEXT", {"hf_model_name": "roberta-base"}),
    ("PREPROCESSOR", {"resample": 2}),
    ("OPENCLIP_PREPROCESSING", {"interpolation": "bilinear"}),
  ],
)
def test_another_computation_is_refused(table, change):
  (field, value) = next(iter(change.items()))
  with pytest.raises(UserError, match=f"^{field}={value!r} is not supported"):
    TABLES[table].check(change, "")
