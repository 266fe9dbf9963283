"""The paper's claims on the embedded corpus: a small CLIP learns still images, then every method adapts it to video.

`pretrain` trains on middle frames and their captions alone. All other runs start from it, train on clips for the same
number of steps, and differ in what their name says. `python -m clipvip_jax.study` runs them all and compares them.

| variant | is |
|---|---|
| pretrain | a small CLIP from random weights: single frames and captions |
| zero_shot | that CLIP as it is, frames averaged, not adapted at all |
| from_scratch | the paper's method from random weights |
| those of variants.TEMPORAL and variants.OMNISOURCE | the paper's method but for what they say |
| longer | two and a half times the steps |
| smoke | few steps on few clips |
"""

from ml_collections import ConfigDict

from configs import common, post_pretrain, variants

# Comparison -> name -> variants; clipvip_jax.study runs each of them once, with several seeds.
STUDY = {
  "Temporal modelling, loss (d)": {
    "video proxies": "vsc_fc",
    "full space-time attention": "full",
    "sequence transformer": "sequence",
    "mean pooling": "mean",
    "single frame": "mean,single_frame",
    "not adapted, mean pooling": "zero_shot",
  },
  "Losses, video proxies": {
    "V-S, subtitles only": "vs",
    "(a) V-S + F-C": "vs_fc",
    "(b) V-S + V-C": "vs_vc",
    "(c) V-S + V-C + F-C": "vs_vc_fc",
    "V-S,C": "vsc",
    "(d) V-S,C + F-C": "vsc_fc",
    "one joint batch": "joint_batch",
    "captions only": "captions_only",
  },
  "Added proxies, time and pre-training, loss (d)": {
    "no added proxy": "proxies_0",
    "1": "proxies_1",
    "3": "vsc_fc",
    "7": "proxies_7",
    "3, without time embedding": "no_time",
    "3, from random weights": "from_scratch",
  },
  "Longer, loss (d)": {"video proxies": "vsc_fc,longer", "mean pooling": "mean,longer"},
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The recipe with the variants of `arg` applied in order."""
  config = common.base()
  post_pretrain.demo(config)
  # Half the demo's cost, so that all arms fit a night on two cores.
  config.model.update({"embed_dim": 96, "vision": {"width": 96, "mlp": 384}, "text": {"width": 96, "mlp": 384}})
  config.data.num_frames = 4
  config.init_from = "arm:pretrain"
  config.loss = "vsc_fc"
  config.train.update({"batch_size": 64, "num_steps": 120, "eval_every": 40, "checkpoint_every": 120})
  config.evaluate.num_examples = 3
  config.host.keep_checkpoints = 1
  return common.apply_variants(config, arg, VARIANTS)


def pretrain(config: ConfigDict) -> None:
  """CLIP's own loss on middle frames."""
  variants.mean(config)
  config.init_from = ""
  config.loss = "fc"
  config.data.num_frames = 1
  config.train.update({"num_steps": 400, "eval_every": 200, "checkpoint_every": 200})


def zero_shot(config: ConfigDict) -> None:
  """One step at no rate: the evaluation of what was loaded."""
  variants.mean(config)
  config.optimizer.update({"learning_rate": 0.0, "schedule": "constant"})
  config.train.update({"num_steps": 1, "eval_every": 1, "checkpoint_every": 1})


def from_scratch(config: ConfigDict) -> None:
  """Random weights."""
  config.init_from = ""


def longer(config: ConfigDict) -> None:
  """300 steps."""
  config.train.update({"num_steps": 300, "eval_every": 60, "checkpoint_every": 150})


def smoke(config: ConfigDict) -> None:
  """Does everything run?"""
  post_pretrain.tiny(config)
  config.train.update({"num_steps": 2, "eval_every": 1, "checkpoint_every": 2})


VARIANTS = {
  "pretrain": pretrain,
  "zero_shot": zero_shot,
  "from_scratch": from_scratch,
  "longer": longer,
  "smoke": smoke,
  **variants.TEMPORAL,
  **variants.OMNISOURCE,
}
