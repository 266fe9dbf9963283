"""Base and variants of the recipes that fine-tune for retrieval: V-S on descriptions (the paper's appendix)."""

import functools

from ml_collections import ConfigDict

from clipvip_jax.configs import common, sizes, variants


def base() -> ConfigDict:
  """Returns a config of CLIP-ViP B/32 with the hyper-parameters that these recipes share.

  Starts from the published post-pretrained weights; --config.init_from=WORKDIR starts from a run's own.
  """
  config = common.base()
  config.init_from = "weights/pretrain_clipvip_base_32.pt"
  config.loss = "vs"
  config.data.update({"subtitle": "description", "caption": "", "text_length": 50})
  config.optimizer.update({"learning_rate": 1e-6, "weight_decay": 0.2, "clip_norm": 1.0})
  config.train.batch_size = 128
  return config


def from_clip(config: ConfigDict) -> None:
  """Starts from CLIP's weights, without post-pretraining. In a list of variants, name it after the size."""
  config.init_from = sizes.size_of(config).clip


def _baseline(variant: variants.Variant) -> variants.Variant:
  """Makes `variant` start from CLIP: post-pretrained weights have proxies and a time embedding that it may lack."""

  def apply(config: ConfigDict) -> None:
    from_clip(config)
    variant(config)

  return apply


def b32(config: ConfigDict) -> None:
  """ViT-B/32, the default: changes nothing."""


def b16(config: ConfigDict) -> None:
  """ViT-B/16 with the hyper-parameters of B/32."""
  config.init_from = sizes.set_size(config, "b16").clip_vip


def large(name: str, config: ConfigDict) -> None:
  """One of sizes.LARGE with the hyper-parameters of B/16, from CLIP's weights: CLIP-ViP's are not published."""
  config.init_from = sizes.set_size(config, name).clip


def followed_by(change: variants.Variant) -> dict[str, variants.Variant]:
  """Returns the variants of B/16 and the larger sizes, each of which applies `change` as well."""

  def both(variant: variants.Variant, config: ConfigDict) -> None:
    variant(config)
    change(config)

  names = ("b16", *sizes.LARGE)
  return {name: functools.partial(both, VARIANTS[name]) for name in names}


VARIANTS: dict[str, variants.Variant] = {
  "b32": b32,
  "b16": b16,
  **{name: functools.partial(large, name) for name in sizes.LARGE},
  "from_clip": from_clip,
  **{name: _baseline(variant) for name, variant in variants.TEMPORAL.items()},
  **variants.SMALL_HARDWARE,
}
