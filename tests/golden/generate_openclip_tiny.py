"""Generates openclip_tiny.safetensors: the weights of clip_tiny.safetensors under OpenCLIP's names.

  python tests/golden/generate_openclip_tiny.py [OUT.safetensors]

It maps names and layouts by hand, independently of clipvip_jax/weights, which the file tests. OpenCLIP stacks the
query, key and value projections into one, and multiplies by projection matrices that HuggingFace stores transposed.
The output is byte-identical to the file.
"""

import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = pathlib.Path(__file__).parent
BLOCK = {
  "layer_norm1": "ln_1",
  "layer_norm2": "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
  "self_attn.out_proj": "attn.out_proj",
}
OTHERS = {
  "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
  "text_model.embeddings.position_embedding.weight": "positional_embedding",
  "text_model.final_layer_norm.weight": "ln_final.weight",
  "text_model.final_layer_norm.bias": "ln_final.bias",
  "vision_model.embeddings.class_embedding": "visual.class_embedding",
  "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
  "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
  "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
  "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
  "vision_model.post_layernorm.weight": "visual.ln_post.weight",
  "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def main(path: pathlib.Path) -> None:
  hf = load_file(FOLDER / "clip_tiny.safetensors")
  weights = {new: hf[old] for old, new in OTHERS.items()}
  weights |= {new: np.ascontiguousarray(hf[old].T) for old, new in TRANSPOSED.items()}
  weights["logit_scale"] = hf["logit_scale"].reshape(1)
  for tower, prefix in {"text_model": "", "vision_model": "visual."}.items():
    for layer in range(2):
      old, new = f"{tower}.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
      for kind in ("weight", "bias"):
        weights |= {f"{new}.{b}.{kind}": hf[f"{old}.{a}.{kind}"] for a, b in BLOCK.items()}
        qkv = [hf[f"{old}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
        weights[f"{new}.attn.in_proj_{kind}"] = np.concatenate(qkv)
  save_file(weights, path)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else FOLDER / "openclip_tiny.safetensors")
