"""Recognition of other architectures by the names of their tensors, for the message that refuses them."""

import re
from collections.abc import Collection

# Pattern of a tensor's name -> the architecture; the first that matches any name is reported.
_PATTERNS = {
  r"(mit|prompts_generator)\.": "X-CLIP",
  r"text_decoder\.|.*\bcross_attn\b|text\.cls_emb$": "CoCa",
  r"logit_bias$|vision_model\.head\.probe$": "SigLIP",
  r"(.*\.)?lora_": "a LoRA adapter, which must be merged into its CLIP",
  r"visual\.(trunk|blocks|patch_embed)\.": "a timm vision tower (EVA, ConvNeXt, SigLIP, MobileCLIP or another)",
  r"(image_encoder|vision_encoder)\.": "MobileCLIP or another model with its own image encoder",
  r"visual\.layer1\.|visual\.attnpool\.": "a ResNet CLIP",
  r"(.*\.)?(word_embeddings|token_type_embeddings)\.|text\.transformer\.(encoder|embeddings)\.": (
    "a model with a BERT text tower (Chinese-CLIP, AltCLIP, xlm-roberta)"
  ),
  r"visual\.attn_pool\.|.*\.attn_pool\.": "a CLIP with attention pooling",
  r".*\.ls_[12]\.gamma$": "a CLIP with layer scale",
  r".*\b(rope|freqs_cis|rotary)": "a vision transformer with rotary positions",
  r"(query_tokens|qformer\.)": "BLIP-2",
  r"(text_encoder|visual_encoder)\.": "BLIP or ALBEF",
  r"(text|visual)_projection\.\d+\.": "GroupViT",
  r"(owlvit\.)?vision_model\.pre_layernorm\.": "OWL-ViT",
  r"(text|vision)_model\.encoder\.layers\.\d+\.ffn\.": "AIMv2",
  r"(model\.)?layers\.\d+\.self_attn\.|lm_head\.": "a language model",
  r"(\w+\.){0,2}(blocks|layer)\.\d+\.": "a single transformer, not a CLIP of two towers",
}
_TOWERS = {
  "vision": re.compile(r"(clipmodel\.)?(vision_model\.|visual_projection\.|visual\.(transformer\.|conv1\.|proj$))"),
  "text": re.compile(
    r"(clipmodel\.)?(text_model\.|text_projection|token_embedding\.|positional_embedding$|transformer\.|ln_final\.)"
    r"|text\."
  ),
}


def describe(names: Collection[str]) -> str:
  """Returns what tensors with these names look like, as "CoCa"; "" if it is not known."""
  for pattern, architecture in _PATTERNS.items():
    if any(re.match(pattern, name) for name in names):
      return architecture
  return lone_tower(names) or ""


def lone_tower(names: Collection[str]) -> str | None:
  """Returns a description if the names are of one tower of a CLIP; None if of both or of neither."""
  towers = _towers(names)
  return f"the {towers[0]} tower alone" if len(towers) == 1 else None


def has_both_towers(names: Collection[str]) -> bool:
  """Returns whether the names include both towers of a CLIP."""
  return len(_towers(names)) == len(_TOWERS)


def _towers(names: Collection[str]) -> list[str]:
  return [tower for tower, pattern in _TOWERS.items() if any(map(pattern.match, names))]
