"""Fine-tuning and evaluation on MSR-VTT, 9,000 videos for training and 1k-A for testing.

A hundred passes over 9,000 videos, one of whose twenty captions is drawn at each visit, are five passes over all
180,000 pairs. 1k-A has no validation split: as in all published numbers on it, the test split chooses the best
checkpoint.

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
  config.data.update({"name": "msrvtt", "config": "9k"})
  config.train.update({"epochs": 100, "eval_every": 355, "checkpoint_every": 355})  # steps: five passes over the videos
  config.evaluate.update({"selection_split": "test", "final_splits": ("test",)})
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """As it is."""


def b16(config: ConfigDict) -> None:
  """The same numbers."""
  common.fine_tuning_b16(config)


VARIANTS = {"b32": b32, "b16": b16, **common.FINE_TUNING_VARIANTS}
