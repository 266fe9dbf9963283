"""Fine-tuning and evaluation on VATEX in English: 25,991 training clips, tested with ten captions of each of 1,500.

Text length, frames and passes over the captions are those of TS2-Net, which follows CLIP4Clip; the rest is CLIP-ViP's
fine-tuning. Each epoch draws one of 10 captions per clip, so 50 epochs equal 5 passes over all captions. The best
checkpoint is selected on the validation split.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "vatex", "config": "default", "text_length": 32})
  config.train.update({"epochs": 50, "eval_every": 1020, "checkpoint_every": 1020})  # steps: five epochs
  config.evaluate.protocol = "multi"
  return variants.apply_variants(config, arg, VARIANTS)


VARIANTS = fine_tuning.VARIANTS
