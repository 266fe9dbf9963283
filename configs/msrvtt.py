"""Fine-tuning and evaluation on MSR-VTT: 9,000 training videos, tested on 1k-A.

Each epoch draws one of the 20 captions per video, so 100 epochs over 9,000 videos equal 5 epochs over all 180,000
pairs. 1k-A has no validation split; as in published results, the best checkpoint is selected on the test split.

Variants: b32 (default), b16, the larger sizes, from_clip, 7k_protocol (7,010 training videos), full_protocol (the
original splits, tested with 20 captions of each of 2,990 videos), TEMPORAL and SMALL_HARDWARE; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import fine_tuning, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = fine_tuning.base()
  config.data.update({"name": "msrvtt", "config": "9k"})
  config.train.update({"epochs": 100, "eval_every": 355, "checkpoint_every": 355})  # steps: five epochs
  config.evaluate.update({"selection_split": "test", "final_splits": ("test",)})
  return variants.apply_variants(config, arg, VARIANTS)


def protocol_7k(config: ConfigDict) -> None:
  """Trains on 7,010 videos, those of the original training and validation splits; tests on 1k-A."""
  config.data.config = "7k"
  config.train.update({"eval_every": 275, "checkpoint_every": 275})


def protocol_full(config: ConfigDict) -> None:
  """Trains on the original 6,513 videos, selects on 497, and tests with every caption of 2,990 as a query."""
  config.data.config = "full"
  config.train.update({"eval_every": 255, "checkpoint_every": 255})
  config.evaluate.update({"selection_split": "validation", "final_splits": ("test",), "protocol": "multi"})


# An evaluation on msrvtt/NAME applies NAME_protocol.
PROTOCOLS = {"7k_protocol": protocol_7k, "full_protocol": protocol_full}
VARIANTS = {**PROTOCOLS, **fine_tuning.VARIANTS}
