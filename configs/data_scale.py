"""How much video does post-pretraining need? Growing subsets of a corpus, and what each is worth downstream.

Small corpora overfit: recall rises, then falls while the loss goes on down (section 3.1 of the paper). Every subset is
trained on for the same number of steps, and as it goes, MSR-VTT's test split is searched without fine-tuning.
`python -m clipvip_jax.study` runs the sizes and draws one plot of their curves.

| variant | is |
|---|---|
| b32 | the default: HD-VILA-100M from CLIP's B/32, evaluated on MSR-VTT 1k-A |
| b16 | ViT-B/16 |
| demo | the embedded corpus from random weights, minutes a run on two cores |
| smoke | few steps on few clips |
| 1%, 3%, 10%, 30%, 100% | of the clips for training; smaller ones are part of larger ones |
"""

import functools

from ml_collections import ConfigDict

from configs import common, post_pretrain, variants

_PERCENT = (1, 3, 10, 30, 100)

STUDY = {"Share of the clips for training": {f"{percent}%": f"{percent}%" for percent in _PERCENT}}


def get_config(arg: str | None = None) -> ConfigDict:
  """The recipe with the variants of `arg` applied in order."""
  config = common.base()
  b32(config)
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """Two hundred thousand steps of 256 clips, half a pass over all of them, evaluated twenty times."""
  post_pretrain.b32(config)
  _downstream(config)


def b16(config: ConfigDict) -> None:
  """The same clips in twice the steps."""
  post_pretrain.b16(config)
  _downstream(config)


def _downstream(config: ConfigDict) -> None:
  config.evaluate.update({"name": "msrvtt", "config": "9k", "selection_split": "test", "final_splits": ("test",)})
  steps = 200_000 * 256 // config.train.batch_size
  config.train.update({"num_steps": steps, "eval_every": steps // 20, "checkpoint_every": 1000})


def demo(config: ConfigDict) -> None:
  """600 steps of 64 clips: six passes over all of them, 600 over a hundredth."""
  post_pretrain.demo(config)
  config.evaluate.update({"name": "", "config": "", "selection_split": "validation", "final_splits": ("test",)})
  config.train.update({"batch_size": 64, "num_steps": 600, "eval_every": 60, "checkpoint_every": 300})


def smoke(config: ConfigDict) -> None:
  """Does everything run?"""
  demo(config)
  post_pretrain.tiny(config)
  config.train.update({"num_steps": 2, "eval_every": 1, "checkpoint_every": 2})


def share(percent: int, config: ConfigDict) -> None:
  """A part of the clips."""
  config.data.fraction = percent / 100


VARIANTS: dict[str, variants.Variant] = {
  "b32": b32,
  "b16": b16,
  "demo": demo,
  "smoke": smoke,
  **{f"{percent}%": functools.partial(share, percent) for percent in _PERCENT},
}
