"""Published sizes of CLIP: fields of `config.model`, and where their weights are.

| variant | model | parameters of CLIP | weights |
|---|---|---|---|
| b32 | ViT-B/32 | 151 M | OpenAI's; CLIP-ViP's published ones for fine-tuning |
| b16 | ViT-B/16 | 150 M | likewise |
| l14 | ViT-L/14 | 428 M | OpenAI's |
| l14_336 | ViT-L/14 at 336 x 336 pixels | 428 M | OpenAI's |
| h14 | ViT-H/14 | 986 M | LAION's, trained on LAION-2B |
| bigg14 | ViT-bigG/14 | 2,540 M | LAION's, trained on LAION-2B |

CLIP-ViP's paper has b32 and b16. The larger sizes keep the learning rates of the paper and the batch of B/16, as other
adaptations of CLIP to video do: STAN fine-tunes B/32 and L/14 on MSR-VTT with the same learning rate (2e-6) and batch
(128) (github.com/farewellthree/STAN, configs/exp/stan), and X-CLIP halves the batch of a GPU for L/14 and doubles its
gradient accumulation (github.com/microsoft/VideoX, X-CLIP/configs/k400). docs/scale.md has their memory.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Size:
  """One size of CLIP.

  Attributes:
    model: fields of `config.model`; `vision` and `text` are sections.
    clip: path of CLIP's weights, a file or a folder.
    clip_vip: path of CLIP-ViP's published weights; "": there are none.
  """

  model: Mapping[str, Any]
  clip: str
  clip_vip: str = ""


def _model(image: int, patch: int, embed: int, vision: tuple[int, ...], text: tuple[int, ...], activation: str) -> dict:
  """Returns the fields of a size whose towers have (width, layers, heads, hidden units)."""
  names = ("width", "layers", "heads", "mlp")
  return {
    "image_size": image,
    "patch_size": patch,
    "embed_dim": embed,
    "activation": activation,
    "vision": dict(zip(names, vision, strict=True)),
    "text": dict(zip(names, text, strict=True)),
  }


_BASE, _LARGE = (768, 12, 12, 3072), (1024, 24, 16, 4096)
_BASE_TEXT, _LARGE_TEXT = (512, 12, 8, 2048), (768, 12, 12, 3072)

SIZES = {
  "b32": Size(
    _model(224, 32, 512, _BASE, _BASE_TEXT, "quick_gelu"),
    "weights/clip-vit-base-patch32/model.safetensors",
    "weights/pretrain_clipvip_base_32.pt",
  ),
  "b16": Size(
    _model(224, 16, 512, _BASE, _BASE_TEXT, "quick_gelu"),
    "weights/clip-vit-base-patch16/model.safetensors",
    "weights/pretrain_clipvip_base_16.pt",
  ),
  "l14": Size(
    _model(224, 14, 768, _LARGE, _LARGE_TEXT, "quick_gelu"), "weights/clip-vit-large-patch14/model.safetensors"
  ),
  "l14_336": Size(
    _model(336, 14, 768, _LARGE, _LARGE_TEXT, "quick_gelu"), "weights/clip-vit-large-patch14-336/model.safetensors"
  ),
  # Heads of 80 and 104 channels in the vision towers.
  "h14": Size(
    _model(224, 14, 1024, (1280, 32, 16, 5120), (1024, 24, 16, 4096), "gelu"), "weights/CLIP-ViT-H-14-laion2B-s32B-b79K"
  ),
  "bigg14": Size(
    _model(224, 14, 1280, (1664, 48, 16, 8192), (1280, 32, 20, 5120), "gelu"),
    "weights/CLIP-ViT-bigG-14-laion2B-39B-b160k",
  ),
}
LARGE = ("l14", "l14_336", "h14", "bigg14")  # sizes that the paper does not have


def set_size(config: ConfigDict, name: str) -> Size:
  """Sets the sizes of `config.model` to those of a key of SIZES, which it returns."""
  config.model.update(SIZES[name].model)
  return SIZES[name]


def size_of(config: ConfigDict) -> Size:
  """Returns the published size of `config.model`, found by pixels, patches and the width of the vision tower.

  Raises:
    ValueError: it has none.
  """

  def key(model: Mapping[str, Any]) -> tuple[int, int, int]:
    return model["image_size"], model["patch_size"], model["vision"]["width"]

  for size in SIZES.values():
    if key(size.model) == key(config.model):
      return size
  raise ValueError(f"config.model has none of CLIP's published sizes ({', '.join(SIZES)}); set config.init_from")
