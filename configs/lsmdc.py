"""Fine-tuning and evaluation on LSMDC: clips of movies and what is described for the blind.

Ten passes over 101,000 clips. The public lists of the method name no validation clips, so the best checkpoint is chosen
by the test split; --config.evaluate.selection_split=validation uses the owner's, where it was built.

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
  config.data.update({"name": "lsmdc", "config": "default"})
  config.train.update({"epochs": 10, "eval_every": 790, "checkpoint_every": 395})  # steps: one pass, and half of it
  config.evaluate.update({"selection_split": "test", "final_splits": ("test",)})
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """As it is."""


def b16(config: ConfigDict) -> None:
  """The same numbers."""
  common.fine_tuning_b16(config)


VARIANTS = {"b32": b32, "b16": b16, **common.FINE_TUNING_VARIANTS}
