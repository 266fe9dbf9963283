"""Fine-tuning and evaluation on YouCook2: steps of cooking videos and their sentences.

10 epochs over 10,337 segments. No hyper-parameters are published for CLIP-ViP or CLIP4Clip: those of LSMDC, a corpus of
similar size with one sentence per clip, are used. The validation split serves both to select the best checkpoint and to
report results, since the sentences of the original test split are not public.

Variants: b32 (default), b16, the larger sizes, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "youcook2", "config": "default"})
  config.train.update({"epochs": 10, "eval_every": 81, "checkpoint_every": 81})  # steps: one epoch
  config.evaluate.update({"selection_split": "validation", "final_splits": ("validation",)})
  return variants.apply_variants(config, arg, VARIANTS)


VARIANTS = fine_tuning.VARIANTS
