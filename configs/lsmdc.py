"""Fine-tuning and evaluation on LSMDC: movie clips and their audio descriptions.

10 epochs over 101,000 clips. The split files published with the method have no validation clips, so the best checkpoint
is selected on the test split. Use --config.evaluate.selection_split=validation if the official validation split was
built.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "lsmdc", "config": "default"})
  config.train.update({"epochs": 10, "eval_every": 790, "checkpoint_every": 395})  # steps: one epoch, and half of it
  config.evaluate.update({"selection_split": "test", "final_splits": ("test",)})
  return variants.apply_variants(config, arg, VARIANTS)


VARIANTS = fine_tuning.VARIANTS
