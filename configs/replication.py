"""Replication study: the paper's comparisons on the embedded corpus.

The `pretrain` arm trains a small CLIP on middle frames and their captions. Every other arm starts from its weights,
trains on clips for the same number of steps, and differs in its variants only. `python -m clipvip_jax.study` runs all
arms and compares them.

| variant | effect |
|---|---|
| pretrain | a small CLIP from random weights on single frames and captions |
| zero_shot | the pretrained CLIP with mean pooling, not adapted |
| from_scratch | the paper's method from random weights |
| longer | 2.5 times as many steps |
| constant | a constant learning rate, without warm-up and decay |
| ema | an exponential moving average of the parameters is evaluated |
| smoke | a few steps on a few clips |

TEMPORAL and OMNISOURCE are available as well; see configs/variants.py.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import common, post_pretrain, variants

# Comparison -> arm's label -> variants. clipvip_jax.study runs each distinct arm once per seed.
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
  "Weight averaging, longer, loss (d)": {
    "last weights": "vsc_fc,longer",
    "moving average": "vsc_fc,longer,ema",
    "constant learning rate, last weights": "vsc_fc,longer,constant",
    "constant learning rate, moving average": "vsc_fc,longer,constant,ema",
  },
}


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = common.base()
  post_pretrain.demo(config)
  # Half the cost of the demo, so that all arms finish within an hour on two cores.
  config.model.update({"embed_dim": 96, "vision": {"width": 96, "mlp": 384}, "text": {"width": 96, "mlp": 384}})
  config.data.num_frames = 4
  config.init_from = "arm:pretrain"
  config.loss = "vsc_fc"
  config.train.update({"batch_size": 64, "num_steps": 120, "eval_every": 40, "checkpoint_every": 120})
  config.evaluate.num_examples = 3
  config.host.keep_checkpoints = 1
  return variants.apply_variants(config, arg, VARIANTS)


def pretrain(config: ConfigDict) -> None:
  """CLIP's contrastive loss on middle frames and captions."""
  variants.mean(config)
  config.init_from = ""
  config.loss = "fc"
  config.data.num_frames = 1
  config.train.update({"num_steps": 400, "eval_every": 200, "checkpoint_every": 200})


def zero_shot(config: ConfigDict) -> None:
  """One step with a learning rate of 0, which evaluates the loaded weights."""
  variants.mean(config)
  config.optimizer.update({"learning_rate": 0.0, "schedule": "constant"})
  config.train.update({"num_steps": 1, "eval_every": 1, "checkpoint_every": 1})


def from_scratch(config: ConfigDict) -> None:
  """Starts from random weights."""
  config.init_from = ""


def longer(config: ConfigDict) -> None:
  """Trains for 300 steps."""
  config.train.update({"num_steps": 300, "eval_every": 60, "checkpoint_every": 150})


def constant(config: ConfigDict) -> None:
  """Trains with a constant learning rate."""
  config.optimizer.schedule = "constant"


def ema(config: ConfigDict) -> None:
  """Averages the parameters with a decay of 0.99."""
  config.train.ema = 0.99


def smoke(config: ConfigDict) -> None:
  """A two-step run that exercises every part."""
  post_pretrain.tiny(config)
  config.train.update({"num_steps": 2, "eval_every": 1, "checkpoint_every": 2})


VARIANTS = {
  "pretrain": pretrain,
  "zero_shot": zero_shot,
  "from_scratch": from_scratch,
  "longer": longer,
  "constant": constant,
  "ema": ema,
  "smoke": smoke,
  **variants.TEMPORAL,
  **variants.OMNISOURCE,
}
