"""Fine-tuning and evaluation on DiDeMo: a video is found by the paragraph that describes it.

Twenty passes. The best checkpoint is chosen by the validation split.

| variant | is |
|---|---|
| b32 | the default |
| b16 | ViT-B/16 |
| from_clip | without post-pretraining |
| those of variants.TEMPORAL | the paper's baselines, which start from CLIP as well |
| those of variants.SMALL_HARDWARE | parts frozen, patches left out, activations computed twice |
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
  """The recipe with the variants of `arg` applied in order."""
  config = common.fine_tuning()
  config.data.update({"name": "didemo", "config": "default"})
  config.train.update({"epochs": 20, "eval_every": 66, "checkpoint_every": 66})  # steps: one pass
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """As it is."""


def b16(config: ConfigDict) -> None:
  """Longer texts, and a faster temperature."""
  common.fine_tuning_b16(config)
  config.data.text_length = 70
  config.optimizer.lr_multipliers.logit_scale = 10.0


VARIANTS = {"b32": b32, "b16": b16, **common.FINE_TUNING_VARIANTS}
