"""The configuration that every recipe starts from, with each field's meaning.

A recipe is a file here with `get_config(arg)`: it takes `base()`, sets its numbers, and applies the variants named in
`arg`, as in `--config=configs/post_pretrain.py:b16,smoke`. Any field can be overridden: `--config.optimizer.b1=0.95`.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs import variants


def base() -> ConfigDict:
  """CLIP-ViP B/32 on nothing in particular: sizes of CLIP, data and optimiser as post-pretraining uses them."""
  config = ConfigDict()
  config.seed = 0
  config.model = model_b32()
  config.loss = "vsc_fc"  # a key of clipvip_jax.training.losses.LOSSES
  config.init_from = ""  # weights to start from: a SOURCE of clipvip_jax/weights/sources.py; empty: random parameters
  config.data = data()
  config.mix = ConfigDict()  # name -> `source`: more corpora to train on, besides config.data
  config.optimizer = optimizer()
  config.train = train()
  config.evaluate = evaluate()
  config.mesh = mesh()
  config.host = host()
  return config


def fine_tuning() -> ConfigDict:
  """What fine-tuning on the four retrieval sets has in common (the paper's appendix): V-S on descriptions.

  Weights are those that post-pretraining gives, published or your own: --config.init_from=RUN names a workdir.
  """
  config = base()
  config.init_from = "weights/pretrain_clipvip_base_32.pt"
  config.loss = "vs"
  config.data.update({"subtitle": "description", "caption": "", "text_length": 50})
  config.optimizer.update({"learning_rate": 1e-6, "weight_decay": 0.2, "clip_norm": 1.0})
  config.train.batch_size = 128
  return config


def from_clip(config: ConfigDict) -> None:
  """From CLIP's weights, without post-pretraining. After b16, if both are named."""
  config.init_from = f"weights/clip-vit-base-patch{config.model.patch_size}/model.safetensors"


def _baseline(variant: variants.Variant) -> variants.Variant:
  """A baseline starts from CLIP: post-pretrained weights have proxies and a time embedding that it may lack."""

  def apply(config: ConfigDict) -> None:
    from_clip(config)
    variant(config)

  return apply


FINE_TUNING_VARIANTS: dict[str, variants.Variant] = {
  "from_clip": from_clip,
  **{name: _baseline(variant) for name, variant in variants.TEMPORAL.items()},
  **variants.SMALL_HARDWARE,
}


def fine_tuning_b16(config: ConfigDict) -> None:
  """Makes a recipe of `fine_tuning` one of ViT-B/16."""
  config.init_from = "weights/pretrain_clipvip_base_16.pt"
  config.model.patch_size = 16


def model_b32() -> ConfigDict:
  """CLIP ViT-B/32 with three added proxies and a time embedding of twelve rows."""
  return ConfigDict(
    {
      "image_size": 224,  # pixels, both sides
      "patch_size": 32,
      "embed_dim": 512,
      "activation": "quick_gelu",  # OpenAI's weights; "gelu" for LAION's
      "dtype": "bfloat16",  # compute; parameters are float32
      # What computes attention: "xla"; "cudnn", the fused kernels of NVIDIA GPUs in bfloat16; "auto": these where they
      # are. cuDNN takes even numbers of queries and keys alone: B/16's patches, not B/32's, which XLA computes.
      "attention": "auto",
      "embedding_init": "clip",  # or "scratch", where training starts from random weights
      "temporal": "proxies",  # a key of clipvip_jax.models.clip_vip.TEMPORAL: or the baselines full, sequence, mean
      "sequence_layers": 4,  # blocks over the frames' features, of temporal="sequence" alone
      "patch_dropout": 0.0,  # share of each frame's patches that training leaves out; evaluation sees all of them
      "remat": False,  # compute a block's activations again for its gradient, in place of keeping them
      "vision": {
        "width": 768,
        "layers": 12,
        "heads": 12,
        "mlp": 3072,
        "added_proxies": 3,  # besides CLIP's class token
        "time_positions": 12,  # rows of the time embedding; 0: none
      },
      "text": {"vocab_size": 49408, "positions": 77, "width": 512, "layers": 12, "heads": 8, "mlp": 2048},
    }
  )


def data() -> ConfigDict:
  """Which corpus, and how its records become batches."""
  return ConfigDict(
    {
      "name": "hdvila",  # a folder of data/
      "config": "",  # the configuration that it was built under; empty: the builder's first
      "data_dir": "",  # where TFDS keeps its corpora; empty: TFDS' own default
      "prepare": False,  # build the corpus if it is missing (only for corpora that generate themselves)
      "train_split": "train",
      "num_frames": 12,  # T, in training and evaluation
      "text_length": 70,  # tokens, start and end included
      "tokenizer": "clip",  # "clip", "words" (from the corpus' training texts), or a tokenizer.json
      "subtitle": "subtitle",  # the record's field that is the noisy text of a clip; empty: it has none
      "caption": "caption",  # the record's field that describes the middle frame; empty: it has none
      # Frames decoded with libjpeg's fast methods and, from twice image_size on, at a fraction of their size. Measured
      # against exact pixels, in standard deviations of a colour: off by 0.02 in the mean and at most 0.24 for soft
      # frames, by 0.2 and 0.9 for frames full of noise. Saves 3 % of the time at 320 x 240 and 30 % at 640 x 480.
      "fast_decode": False,
      "fraction": 1.0,  # of the training split that is trained on: a random one, of which smaller ones are part
      "weight": 1.0,  # its share of the batches, against those of config.mix
    }
  )


def source(**fields: object) -> ConfigDict:
  """A corpus of config.mix: fields as in `data`, which also says how its texts are read.

  Each batch is of one source, chosen by the weights. `train.epochs` counts passes over config.data alone, whose splits
  are those that are evaluated.
  """
  names = ("name", "config", "data_dir", "train_split", "num_frames", "subtitle", "caption", "fraction", "weight")
  value = ConfigDict({name: data()[name] for name in names})  # an empty data_dir is that of config.data
  value.update(fields)
  unknown = set(value.keys()) - set(names)
  if unknown:
    raise ValueError(f"a source has no field {sorted(unknown)[0]!r}; it has: {', '.join(names)}")
  return value


def optimizer() -> ConfigDict:
  """AdamW and its schedule; method: section 4.1 and the appendix of the paper."""
  return ConfigDict(
    {
      "learning_rate": 5e-6,
      "schedule": "cosine",  # a key of clipvip_jax.training.optimizer.SCHEDULES
      "warmup_ratio": 0.01,  # of all steps
      "weight_decay": 0.05,
      "clip_norm": 5.0,
      "b1": 0.9,
      "b2": 0.98,
      "eps": 1e-6,
      "lr_multipliers": {"logit_scale": 1.0},  # part of a parameter's name -> factor on its rate
      "frozen": (),  # parameters that stay as they were loaded: how their names begin, as ("text/",)
    }
  )


def train() -> ConfigDict:
  """How long, and how often what."""
  return ConfigDict(
    {
      "batch_size": 256,  # global: over all devices and processes
      "epochs": 5,
      "num_steps": 0,  # updates; 0: what `epochs` of the training split take
      "eval_every": 1000,  # steps; also at the end
      "checkpoint_every": 500,  # steps; also at every evaluation and at the end
      # Pieces of a batch that pass through the towers one after another, for memory; the loss and its gradient are
      # those of the whole batch, at the price of one more pass forward.
      "num_microbatches": 1,
      # Share of the steps, the last ones, that see all patches where model.patch_dropout leaves some out before: clips
      # are whole where they are searched.
      "unmasked_fraction": 0.1,
    }
  )


def evaluate() -> ConfigDict:
  """What is measured. The best checkpoint is chosen by plain text-to-video R@1 on `selection_split`."""
  return ConfigDict(
    {
      "name": "",  # a corpus to evaluate on, where it is not that of config.data; config and data_dir as there
      "config": "",
      "data_dir": "",
      "selection_split": "validation",
      "final_splits": ("test",),
      "query": "description",  # the record's field that is searched with
      "protocol": "single",  # one query a clip; "multi": several, each asked on its own, the best answers a video
      "batch_size": 256,  # global
      "num_examples": 12,  # queries whose top five videos the report shows
    }
  )


def mesh() -> ConfigDict:
  """How devices are arranged: see clipvip_jax/distributed/sharding.py. A run may be continued on another mesh."""
  return ConfigDict(
    {
      "data": -1,  # shares of a batch; -1: what the others leave of the devices
      "fsdp": 1,  # shares of a batch and of every large parameter, for models that one device cannot hold
      "tensor": 1,  # shares of the heads and hidden units of a block
    }
  )


def host() -> ConfigDict:
  """What cannot change a result; a run may be continued with other values."""
  return ConfigDict(
    {
      "num_workers": 8,  # processes that load data; 0: threads of this one
      "log_every": 50,  # steps
      "keep_checkpoints": 3,  # the newest; the best is kept besides
      # Seconds without a step, a batch of an evaluation or a checkpoint after which a process writes where its threads
      # stand and ends with code 75: more than the first step compiles, or the slowest batch loads. 0: never.
      "watchdog_timeout": 1800,
      # Where compiled programs are kept, so that a run that goes on need not compile: a folder, in the workdir unless
      # it is absolute; empty: nowhere. JAX_COMPILATION_CACHE_DIR comes first. Of a launch, process 0 alone writes it.
      "compilation_cache": "compiled",
    }
  )


def apply_variants(config: ConfigDict, arg: str | None, variants: Mapping[str, Callable]) -> ConfigDict:
  """Applies the comma-separated variants of `arg` in order, and locks the config.

  Raises:
    ValueError: a variant that the recipe does not have.
  """
  for name in filter(None, (arg or "").split(",")):
    if name not in variants:
      raise ValueError(f"unknown variant {name!r}; this recipe has: {', '.join(variants)}")
    variants[name](config)
  return config.lock()
