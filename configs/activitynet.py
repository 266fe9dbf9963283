"""Fine-tuning and evaluation on ActivityNet Captions: paragraph-to-video retrieval of minutes-long videos.

20 epochs with 32 frames per video; the time embedding is resized from its 12 rows. The first validation set, val_1,
serves both to select the best checkpoint and to report results.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "activitynet_captions", "config": "default", "num_frames": 32, "text_length": 70})
  config.train.update({"epochs": 20, "eval_every": 79, "checkpoint_every": 79})  # steps: one epoch
  config.evaluate.update({"selection_split": "validation", "final_splits": ("validation",)})
  return variants.apply_variants(config, arg, VARIANTS)


def as_b16(config: ConfigDict) -> None:
  """B/16 and the larger sizes: half the batch size."""
  config.train.batch_size = 64
  config.train.update({"eval_every": 157, "checkpoint_every": 157})


VARIANTS = {**fine_tuning.VARIANTS, **fine_tuning.followed_by(as_b16)}
