"""Configuration files next to weights: known fields that are CLIP's are accepted, all others refused by name."""

import json

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.config_files import read_hints
from clipvip_jax.weights.model_config import Hints

TEXT = {"num_attention_heads": 4, "vocab_size": 100}


def huggingface(text=None, vision=None, **fields):
  return {"text_config": {**TEXT, **(text or {})}, "vision_config": {"patch_size": 8, **(vision or {})}, **fields}


def openclip(text=None, vision=None, **fields):
  sections = {"text_cfg": {"heads": 4, **(text or {})}, "vision_cfg": {"width": 64, **(vision or {})}}
  return {"model_cfg": {**sections, **fields}}


def read(folder, config):
  name = "open_clip_config.json" if "model_cfg" in config else "config.json"
  (folder / name).write_text(json.dumps(config))
  return read_hints(folder)


def test_folder_without_configuration_gives_no_hints(tmp_path):
  assert read_hints(tmp_path) == Hints()


@pytest.mark.parametrize(
  "config",
  [
    huggingface(model_type="clip", transformers_version="4.30", logit_scale_init_value=2.6592, torch_dtype="float32"),
    huggingface({"eos_token_id": 2, "num_beams": 1, "id2label": {}, "model_type": "clip_text_model"}),
    huggingface({"eos_token_id": 99, "attention_dropout": 0.1}, {"num_channels": 3, "layer_norm_eps": 1e-5}),
    openclip({"context_length": 77, "pool_type": "argmax"}, {"patch_dropout": 0.5}, custom_text=True),
    openclip({"act_kwargs": {}, "no_causal_mask": False}, {"timm_model_name": None, "no_ln_pre": False}),
  ],
)
def test_fields_of_clip_are_accepted(tmp_path, config):
  assert read(tmp_path, config).text_heads == 4


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (huggingface({"use_rope": True}), "text_config.use_rope is unknown and may change the features; remove the field"),
    (huggingface(vision={"window_size": 7}), "vision_config.window_size is unknown"),
    (huggingface(quantization_config={"bits": 4}), "quantization_config is unknown"),
    (huggingface(model_type="metaclip_2"), "model_type='metaclip_2' is not supported; CLIP has 'clip'"),
    (huggingface({"model_type": "bert"}), "text_config.model_type='bert' is not supported; CLIP has 'clip_text_model'"),
    (huggingface({"eos_token_id": 5}), "eos_token_id=5 is not supported; CLIP's end token is the last .*, 99"),
    (huggingface(vision={"num_channels": 1}), "vision_config.num_channels=1 is not supported; CLIP has 3"),
    (openclip({"pool_type": "last"}), "text_cfg.pool_type='last' is not supported; CLIP has 'argmax'"),
    (openclip({"tokenizer_kwargs": {"clean": "canonicalize"}}), "tokenizer_kwargs=.* is not supported"),
    (openclip(vision={"norm_kwargs": {"eps": 1e-6}}), r"vision_cfg.norm_kwargs=\{'eps': 1e-06\} is not supported"),
    (openclip(vision={"no_ln_pre": True}), "vision_cfg.no_ln_pre=True is not supported; CLIP has False"),
    (openclip(vision={"rope": True}), "vision_cfg.rope is unknown"),
    (openclip(multimodal_cfg={"layers": 2}), "multimodal_cfg=.* is not supported; CLIP has None"),
  ],
)
def test_field_that_may_change_the_features_is_refused_by_name(tmp_path, config, message):
  with pytest.raises(UserError, match=message):
    read(tmp_path, config)
