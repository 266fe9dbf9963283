"""Data scale study: post-pretraining on nested subsets of a corpus, with zero-shot recall over training steps.

Small corpora overfit: recall rises, then falls while the training loss keeps decreasing (section 3.1 of the paper).
Every subset trains for the same number of steps and is evaluated on MSR-VTT's test split without fine-tuning.
`python -m clipvip_jax.study` runs all subsets and plots their curves together.

| variant | effect |
|---|---|
| b32 | default: HD-VILA-100M from CLIP's B/32 weights, evaluated on MSR-VTT 1k-A |
| b16 | ViT-B/16 |
| l14, l14_336, h14, bigg14 | larger CLIPs; see configs/sizes.py |
| demo | the embedded corpus from random weights: minutes per run on two cores |
| smoke | a few steps on a few clips |
| 1%, 3%, 10%, 30%, 100% | share of the training clips; smaller subsets are contained in larger ones |
"""

import functools

from ml_collections import ConfigDict

from clipvip_jax.configs import common, post_pretrain, sizes, variants

_PERCENT = (1, 3, 10, 30, 100)

STUDY = {"Share of the clips for training": {f"{percent}%": f"{percent}%" for percent in _PERCENT}}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = common.base()
  b32(config)
  return variants.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """ViT-B/32: 200,000 steps of 256 clips (half an epoch of HD-VILA-100M), evaluated 20 times."""
  post_pretrain.b32(config)
  _downstream(config)


def b16(config: ConfigDict) -> None:
  """ViT-B/16: the same number of clips in twice as many steps."""
  post_pretrain.b16(config)
  _downstream(config)


def large(name: str, config: ConfigDict) -> None:
  """One of sizes.LARGE, trained as B/16."""
  post_pretrain.large(name, config)
  _downstream(config)


def _downstream(config: ConfigDict) -> None:
  config.evaluate.update({"name": "msrvtt", "config": "9k", "selection_split": "test", "final_splits": ("test",)})
  steps = 200_000 * 256 // config.train.batch_size
  config.train.update({"num_steps": steps, "eval_every": steps // 20, "checkpoint_every": 1000})


def demo(config: ConfigDict) -> None:
  """The demo model: 600 steps of 64 clips, which are 6 epochs of the full corpus or 600 epochs of 1%."""
  post_pretrain.demo(config)
  config.evaluate.update({"name": "", "config": "", "selection_split": "validation", "final_splits": ("test",)})
  config.train.update({"batch_size": 64, "num_steps": 600, "eval_every": 60, "checkpoint_every": 300})


def smoke(config: ConfigDict) -> None:
  """A two-step run that exercises every part."""
  demo(config)
  post_pretrain.tiny(config)
  config.train.update({"num_steps": 2, "eval_every": 1, "checkpoint_every": 2})


def share(percent: int, config: ConfigDict) -> None:
  """Trains on `percent` of the training split."""
  config.data.fraction = percent / 100


VARIANTS: dict[str, variants.Variant] = {
  "b32": b32,
  "b16": b16,
  **{name: functools.partial(large, name) for name in sizes.LARGE},
  "demo": demo,
  "smoke": smoke,
  **{f"{percent}%": functools.partial(share, percent) for percent in _PERCENT},
}
