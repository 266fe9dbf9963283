"""Fine-tuning and evaluation on MSVD: 1,200 training videos, tested with all captions of 670 videos.

Text length, frames and passes over the captions are those of CLIP4Clip, the rest is CLIP-ViP's fine-tuning. Each epoch
draws one of about 40 captions per video, so 200 epochs equal 5 passes over all captions. The best checkpoint is
selected on the validation split.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "msvd", "config": "default", "text_length": 32})
  config.train.update({"epochs": 200, "eval_every": 100, "checkpoint_every": 100})  # steps: ten epochs
  config.evaluate.protocol = "multi"
  return variants.apply_variants(config, arg, VARIANTS)


VARIANTS = fine_tuning.VARIANTS
