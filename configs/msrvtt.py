"""Fine-tuning and evaluation on MSR-VTT: 9,000 training videos, tested on 1k-A.

Each epoch draws one of the 20 captions per video, so 100 epochs over 9,000 videos equal 5 epochs over all 180,000
pairs. 1k-A has no validation split; as in published results, the best checkpoint is selected on the test split.

Variants: b32 (default), b16, from_clip, TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = common.fine_tuning()
  config.data.update({"name": "msrvtt", "config": "9k"})
  config.train.update({"epochs": 100, "eval_every": 355, "checkpoint_every": 355})  # steps: five epochs
  config.evaluate.update({"selection_split": "test", "final_splits": ("test",)})
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """ViT-B/32, the default: changes nothing."""


def b16(config: ConfigDict) -> None:
  """ViT-B/16 with the hyper-parameters of B/32."""
  common.fine_tuning_b16(config)


VARIANTS = {"b32": b32, "b16": b16, **common.FINE_TUNING_VARIANTS}
