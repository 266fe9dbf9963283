"""Fields of configuration files of CLIP: those that are read, those with one supported value, and those without effect.

A field in none of these tables is refused, since it may change the computation without adding a tensor.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable


@dataclasses.dataclass(frozen=True)
class Fields:
  """Fields of a section.

  Attributes:
    used: read, or determined by the shapes of the weights.
    fixed: {field: supported values}.
    plain: without effect on features: training, generation, library versions.
  """

  used: frozenset[str]
  fixed: Mapping[str, tuple[Any, ...]]
  plain: frozenset[str]

  def check(self, section: Any, name: str) -> None:
    """Raises a UserError for anything but an object, and for the first field with an unknown name or value."""
    if not isinstance(section, dict):
      raise UserError(f"{name.rstrip('.') or 'the content'} must be a JSON object, not {printable(repr(section), 80)}")
    for field in sorted(section, key=lambda field: field not in self.fixed):  # model_type tells more than its fields
      value = section[field]
      if field in self.fixed:
        if not any(_same(value, allowed) for allowed in self.fixed[field]):
          shown = printable(repr(value), 80)
          raise UserError(f"{name}{field}={shown} is not supported; CLIP has {_expected(self.fixed[field])}")
      elif field not in self.used and field not in self.plain:
        raise UserError(
          f"{name}{printable(field, 80)} is unknown and may change the features; remove the field if it does not"
        )


def _same(value: Any, allowed: Any) -> bool:
  """Returns whether values are equal and of the same kind: True and False differ from 1 and 0."""
  return bool(value == allowed) and isinstance(value, bool) == isinstance(allowed, bool)


def _expected(allowed: tuple[Any, ...]) -> str:
  """Formats supported values for a message; those that mean an absent field only if there are no others."""
  shown = [value for value in allowed if value not in (None, {}, "")] or allowed[:1]
  return " or ".join(repr(value).replace("e-0", "e-") for value in shown)  # 1e-5, as in files


def _set(*names: str) -> frozenset[str]:
  return frozenset(field for name in names for field in name.split())


# Of HuggingFace's PretrainedConfig, which writes them into every section.
_PRETRAINED = _set(
  "_name_or_path _commit_hash _attn_implementation_autoset attn_implementation architectures bos_token_id",
  "pad_token_id sep_token_id cls_token_id decoder_start_token_id dtype torch_dtype transformers_version",
  "finetuning_task id2label label2id problem_type task_specific_params tokenizer_class prefix return_dict",
  "output_attentions output_hidden_states torchscript tf_legacy_loss use_bfloat16 use_cache gradient_checkpointing",
  "chunk_size_feed_forward tie_word_embeddings tie_encoder_decoder is_encoder_decoder is_decoder add_cross_attention",
  "cross_attention_hidden_size initializer_factor initializer_range logit_scale_init_value attention_dropout dropout",
  # generation
  "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p",
  "typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids",
  "num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id",
  "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens",
)
_TOWER = "hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act projection_dim"
# Code of its own, and heads that the tensors lack.
_CUSTOM: dict[str, tuple[Any, ...]] = {"auto_map": (None, {}), "pruned_heads": ({}, None)}
HUGGINGFACE = Fields(
  _set(
    "text_config text_config_dict vision_config vision_config_dict projection_dim vision_additional_config clipvip_jax"
  ),
  {**_CUSTOM, "model_type": ("clip", "clip_vip")},
  _PRETRAINED | {"eos_token_id"},
)
HUGGINGFACE_TEXT = Fields(
  _set(_TOWER, "vocab_size max_position_embeddings eos_token_id"),
  {**_CUSTOM, "model_type": ("clip_text_model",), "layer_norm_eps": (1e-5,)},
  _PRETRAINED,
)
HUGGINGFACE_VISION = Fields(
  _set(_TOWER, "image_size patch_size"),
  {**_CUSTOM, "model_type": ("clip_vision_model",), "layer_norm_eps": (1e-5,), "num_channels": (3,)},
  _PRETRAINED | {"eos_token_id"},
)
# Values in transformers of omitted fields that affect the features: the sizes of B/32.
HUGGINGFACE_DEFAULTS: dict[str, dict[str, Any]] = {
  "text_config": {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
  },
  "vision_config": {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
  },
}

# Written by CLIP-ViP's code; another type than "ViP" is mean pooling.
CLIP_VIP_VISION = Fields(
  _set("type temporal_size add_cls_num if_use_temporal_embed"), {}, _set("logit_scale_init_value")
)


def _false(*names: str) -> dict[str, tuple[Any, ...]]:
  return dict.fromkeys(_set(*names), (False, None))


def _none(names: Iterable[str]) -> dict[str, tuple[Any, ...]]:
  return dict.fromkeys(names, (None, {}, ""))


_SHARED = {
  **_false("final_ln_after_pool qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc"),
  **_none(("ls_init_value", "act_kwargs", "norm_kwargs", "block_type", "norm_type", "act_type")),
}
OPENCLIP_FILE = Fields(_set("model_cfg preprocess_cfg clipvip_jax"), {}, frozenset())
OPENCLIP = Fields(
  _set("embed_dim vision_cfg text_cfg"),
  {"quick_gelu": (True, False, None), "multimodal_cfg": (None,), "init_logit_bias": (None,)},
  _set("init_logit_scale custom_text nonscalar_logit_scale cast_dtype output_dict"),
)
OPENCLIP_VISION = Fields(
  _set("layers width head_width mlp_ratio patch_size image_size"),
  {
    **_SHARED,
    **_false("global_average_pool no_ln_pre attentional_pool input_patchnorm"),
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
    "timm_model_name": (None,),
  },
  _set(
    "patch_dropout output_tokens attn_pooler_queries attn_pooler_heads timm_model_pretrained timm_pool timm_proj",
    "timm_proj_bias timm_drop timm_drop_path",
  ),
)
OPENCLIP_TEXT = Fields(
  _set("context_length vocab_size width heads layers mlp_ratio"),
  {
    **_SHARED,
    **_false("no_causal_mask embed_cls proj_bias"),
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "hf_model_name": (None,),
    "tokenizer_mode": (None,),
    "hf_tokenizer_name": (None, ""),
    "tokenizer_kwargs": (None, {}),
    "text_mask": ("first",),
  },
  _set("pad_id eos_id output_tokens correct_cls_mask hf_model_config hf_model_pretrained hf_proj_type hf_pooler_type"),
)
PREPROCESSOR = Fields(
  _set("image_mean image_std image_processor_type feature_extractor_type"),
  {
    "do_normalize": (True, False),
    "do_resize": (True,),
    "resample": (3,),
    "do_rescale": (True,),
    "rescale_factor": (1 / 255,),
    "do_pad": (False, None),
  },
  # Frames are resized to a square of the model's size, whatever the shape of the pictures in training.
  _set(
    "size crop_size do_center_crop do_convert_rgb default_to_square data_format input_data_format return_tensors",
    "device disable_grouping pad_size image_seq_length use_fast processor_class _valid_processor_keys",
  ),
)
OPENCLIP_PREPROCESSING = Fields(
  _set("mean std"),
  {"mode": ("RGB",), "interpolation": ("bicubic", "random")},  # "random" is of training
  _set("size resize_mode fill_color"),
)
