"""Fine-tuning and evaluation on DiDeMo: paragraph-to-video retrieval.

20 epochs. The best checkpoint is selected on the validation split.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "didemo", "config": "default"})
  config.train.update({"epochs": 20, "eval_every": 66, "checkpoint_every": 66})  # steps: one epoch
  return variants.apply_variants(config, arg, VARIANTS)


def as_b16(config: ConfigDict) -> None:
  """B/16 and the larger sizes: 70 tokens per text and a tenfold learning rate for logit_scale."""
  config.data.text_length = 70
  config.optimizer.lr_multipliers.logit_scale = 10.0


VARIANTS = {**fine_tuning.VARIANTS, **fine_tuning.followed_by(as_b16)}
