"""Fine-tuning and evaluation on ActivityNet Captions: minutes of video and a paragraph.

Twenty passes, 32 frames a video: the time embedding is resized from its twelve rows. What is reported is the first
validation set, val_1, by which the best checkpoint is chosen as well.

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
  config.data.update({"name": "activitynet_captions", "config": "default", "num_frames": 32, "text_length": 70})
  config.train.update({"epochs": 20, "eval_every": 79, "checkpoint_every": 79})  # steps: one pass
  config.evaluate.update({"selection_split": "validation", "final_splits": ("validation",)})
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """As it is."""


def b16(config: ConfigDict) -> None:
  """Half the batch."""
  common.fine_tuning_b16(config)
  config.train.batch_size = 64
  config.train.update({"eval_every": 157, "checkpoint_every": 157})


VARIANTS = {"b32": b32, "b16": b16, **common.FINE_TUNING_VARIANTS}
