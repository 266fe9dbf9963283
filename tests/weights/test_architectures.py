"""Weights of other architectures are refused by what they look like, in a short message."""

import numpy as np
import pytest
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import architectures, sources

OTHERS = {
  "visual.trunk.blocks.{}.attn.q_proj.weight": "a timm vision tower",
  "text_decoder.resblocks.{}.ln_1.weight": "CoCa",
  "visual.transformer.resblocks.{}.ls_1.gamma": "a CLIP with layer scale",
  "visual.layer1.{}.conv1.weight": "a ResNet CLIP",
  "text_model.encoder.layer.{}.word_embeddings.weight": "a model with a BERT text tower",
  "bert.embeddings.word_embeddings.{}.weight": "a model with a BERT text tower",
  "mit.encoder.layers.{}.layer_norm1.weight": "X-CLIP",
  "vision_model.encoder.layers.{}.ffn.gate_proj.weight": "AIMv2",
  "visual_projection.{}.num_batches_tracked": "GroupViT",
  "vision_model.encoder.layers.0.self_attn.q_proj.lora_A.{}.weight": "a LoRA adapter, which must be merged",
  "lora_te_text_model_encoder_layers_{}_mlp_fc1.lora_down.weight": "a LoRA adapter",
  "visual.blocks.{}.attn.q_proj.weight": "a timm vision tower",
  "videomae.encoder.layer.{}.attention.attention.query.weight": "a single transformer",
  "encoder.blocks.{}.attn.qkv.weight": "a single transformer",
  "model.layers.{}.self_attn.rotary": "a vision transformer with rotary positions",
}


@pytest.mark.parametrize("layout", ["openclip_tiny", "clip_tiny"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_architecture_is_named_with_a_count_and_the_first_tensors(tmp_path, name, layout):
  tensors = load_file(GOLDEN / f"{layout}.safetensors")
  other = {name.format(i): np.zeros(4, np.float32) for i in range(300)}
  save_file({**tensors, **other}, tmp_path / "x.safetensors")
  message = rf"300 tensors are not part of CLIP .*looks like {OTHERS[name]}.* and 295 more"
  with pytest.raises(UserError, match=message) as refused:
    sources.read_weights(str(tmp_path / "x.safetensors"))
  assert len(str(refused.value)) < 1000 and str(refused.value).count(name.partition("{")[0]) == 5


@pytest.mark.parametrize("layout", ["openclip_tiny", "clip_tiny", "vip_tiny"])
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_lone_tower_is_named(tmp_path, layout, tower):
  prefixes = {"vision": ("vision_model", "visual"), "text": ("text", "token", "positional", "transformer", "ln_final")}
  tensors = load_file(GOLDEN / f"{layout}.safetensors")
  lone = {name: x for name, x in tensors.items() if name.removeprefix("clipmodel.").startswith(prefixes[tower])}
  save_file(lone, tmp_path / "x.safetensors")
  with pytest.raises(UserError, match=f"the file looks like the {tower} tower alone; use .*both towers"):
    sources.read_weights(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("layout", ["openclip_tiny", "clip_tiny", "vip_tiny"])
def test_clip_looks_like_nothing_else(layout):
  assert not architectures.describe(load_file(GOLDEN / f"{layout}.safetensors"))


@pytest.mark.parametrize(
  ("names", "architecture"),
  [
    (["prompts_generator.decoder.0.cross_attn.q_proj.weight", "mit.position_embedding"], "X-CLIP"),
    (["text_model.final_layer_norm.bias", "vision_model.pre_layernorm.bias"], "OWL-ViT"),
  ],
)
def test_an_architecture_with_parts_of_another_is_named(names, architecture):
  assert architectures.describe(names) == architecture
