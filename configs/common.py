"""Base config of all recipes, with the meaning of every field.

A recipe is a file with `get_config(arg)`: it takes `base()`, sets its hyper-parameters, and applies the variants named
in `arg`, as in `--config=configs/post_pretrain.py:b16,mean`. Recipes of configs/ have names that are valid in any
folder: `--config=post_pretrain:b16,mean`. Any field can be overridden on the command line:
`--config.optimizer.b1=0.95`. Unknown fields and variants are errors.
"""

from ml_collections import ConfigDict


def base() -> ConfigDict:
  """Returns a config of CLIP-ViP B/32 with the paper's post-pretraining hyper-parameters and no weights."""
  config = ConfigDict()
  config.seed = 0
  config.model = model_b32()
  config.loss = "vsc_fc"  # a key of clipvip_jax.training.losses.LOSSES
  config.init_from = ""  # initial weights, a SOURCE as in clipvip_jax/weights/sources.py; empty: random parameters
  # Whether sizes, heads and activation of config.model are those of init_from: clipvip_jax/training/model_sizes.py.
  config.sizes_from_weights = False
  config.data = data()
  config.mix = ConfigDict()  # name -> mix_corpus(...): corpora to train on in addition to config.data
  config.optimizer = optimizer()
  config.train = train()
  config.evaluate = evaluate()
  config.mesh = mesh()
  config.host = host()
  return config


def model_b32() -> ConfigDict:
  """Returns the model section: CLIP ViT-B/32 with 3 added proxies and a time embedding of 12 rows."""
  return ConfigDict(
    {
      "image_size": 224,  # height and width in pixels
      "patch_size": 32,
      "embed_dim": 512,
      "activation": "quick_gelu",  # for OpenAI's weights; "gelu" for LAION's
      "dtype": "bfloat16",  # of computation; parameters are float32
      # Attention implementation: "xla", "cudnn" (fused kernels for NVIDIA GPUs in bfloat16), or "auto": cuDNN where it
      # applies. cuDNN requires even numbers of queries and keys, which B/16 has and B/32 has not. "pallas": kernels of
      # proxy-guided attention for TPUs and, for frames as small as those of B/32, GPUs. No device has run them yet.
      "attention": "auto",
      "embedding_init": "clip",  # "scratch" when training from random weights: sinusoidal position and time embeddings
      "temporal": "proxies",  # a key of clipvip_jax.models.clip_vip.TEMPORAL: proxies, full, sequence or mean
      "sequence_layers": 4,  # transformer blocks over per-frame features; temporal="sequence" only
      "patch_dropout": 0.0,  # share of each frame's patches dropped in training; evaluation uses all patches
      "remat": False,  # gradient checkpointing: recompute each block's activations in the backward pass
      "vision": {
        "width": 768,
        "layers": 12,
        "heads": 12,
        "mlp": 3072,
        "added_proxies": 3,  # in addition to CLIP's class token
        "time_positions": 12,  # rows of the time embedding; 0: no time embedding
      },
      "text": {"vocab_size": 49408, "positions": 77, "width": 512, "layers": 12, "heads": 8, "mlp": 2048},
    }
  )


def data() -> ConfigDict:
  """Returns the data section: the training corpus and how its records become batches."""
  return ConfigDict(
    {
      "name": "hdvila",  # a corpus: a folder of data/
      "config": "",  # builder configuration of the corpus; empty: the builder's first
      "data_dir": "",  # dataset directory of TFDS; empty: the TFDS default
      "prepare": False,  # build a missing corpus; synthetic corpora only
      "cache_dir": "",  # local folder for copies of the files of corpora on gs:// and s3://; empty: see docs/data.md
      "cache_gb": 100.0,  # limit of its size in 10^9 bytes; the least recently used files are deleted
      "train_split": "train",
      "num_frames": 12,  # frames per clip (T), in training and evaluation
      "text_length": 70,  # tokens per text, including start and end tokens
      "tokenizer": "clip",  # "clip", "words" (a vocabulary of the corpus' training texts), or a tokenizer.json
      "subtitle": "subtitle",  # record field with the noisy text of a clip; empty: none
      "caption": "caption",  # record field with the caption of the middle frame; empty: none
      # How frames become square: "squash" resizes both sides and loses the aspect ratio, as CLIP-ViP does; "center"
      # resizes the shorter side and crops the longer one around its centre, as CLIP does. For all corpora of a run.
      "crop": "squash",
      # Pixels of a batch: "float32", resized and normalised on the host, as published results were; or "uint8", rounded
      # after resizing and normalised on the device: a quarter of the bytes. For all corpora of a run.
      "pixels": "float32",
      # Decode frames with libjpeg's fast methods and, from twice image_size on, at a reduced scale. Measured error in
      # standard deviations of a colour channel: mean 0.02 and at most 0.24 for smooth frames, 0.2 and 0.9 for noise.
      # Saves 3 % of the decoding time at 320 x 240 and 30 % at 640 x 480.
      "fast_decode": False,
      "fraction": 1.0,  # share of the training split to use: a random subset that contains all smaller ones
      "weight": 1.0,  # share of the batches, relative to the weights in config.mix
    }
  )


def mix_corpus(**fields: object) -> ConfigDict:
  """Returns an entry of config.mix: a corpus with fields as in the data section.

  Every batch comes from one corpus, drawn by weight. `train.epochs` counts epochs of config.data, whose splits are
  evaluated.

  Args:
    **fields: values that replace the defaults of the data section. An empty data_dir is config.data.data_dir.

  Raises:
    ValueError: a field that an entry does not have.
  """
  names = ("name", "config", "data_dir", "train_split", "num_frames", "subtitle", "caption", "fraction", "weight")
  unknown = fields.keys() - set(names)
  if unknown:
    raise ValueError(f"mix_corpus has no field {min(unknown)!r}; available: {', '.join(names)}")
  defaults = data()
  return ConfigDict({name: fields.get(name, defaults[name]) for name in names})


def optimizer() -> ConfigDict:
  """Returns the optimizer section: AdamW and its schedule (section 4.1 and the appendix of the paper)."""
  return ConfigDict(
    {
      "learning_rate": 5e-6,
      "schedule": "cosine",  # a key of clipvip_jax.training.optimizer.SCHEDULES
      "warmup_ratio": 0.01,  # share of all steps
      "weight_decay": 0.05,
      "clip_norm": 5.0,
      "b1": 0.9,
      "b2": 0.98,
      "eps": 1e-6,
      "lr_multipliers": {"logit_scale": 1.0},  # first parts of names of parameters -> factor on their learning rate
      "frozen": (),  # first parts of names of parameters that are not trained, as ("text/",)
    }
  )


def train() -> ConfigDict:
  """Returns the train section: batch size, duration and intervals."""
  return ConfigDict(
    {
      "batch_size": 256,  # global: summed over all devices and processes
      "epochs": 5,
      "num_steps": 0,  # optimizer steps; 0: derived from `epochs`
      "eval_every": 1000,  # steps; also at the end
      "checkpoint_every": 500,  # steps; also at every evaluation and at the end
      # Microbatches that pass through the towers one after another to save memory: gradient accumulation with cached
      # features (GradCache). Loss and gradient are those of the full batch; costs one more forward pass.
      "num_microbatches": 1,
      # Share of the steps, at the end of training, that use all patches although model.patch_dropout is set, so that
      # training ends on clips as evaluation sees them.
      "unmasked_fraction": 0.1,
      # Decay of an exponential moving average of the parameters, which is evaluated, exported and loaded in their
      # place; the formula is in clipvip_jax/training/parameter_average.py. 0: no average.
      "ema": 0.0,
    }
  )


def evaluate() -> ConfigDict:
  """Returns the evaluate section. The best checkpoint has the highest plain text-to-video R@1 on `selection_split`."""
  return ConfigDict(
    {
      "name": "",  # the corpus to evaluate on; empty: the corpus of config.data
      "config": "",
      "data_dir": "",
      "selection_split": "validation",
      "final_splits": ("test",),
      "query": "description",  # record field used as the search query
      "protocol": "single",  # one query per clip; "multi": several, ranked separately; v2t: docs/evaluation.md
      "batch_size": 256,  # global
      "num_examples": 12,  # queries in the report, each with its top five videos
    }
  )


def mesh() -> ConfigDict:
  """Returns the mesh section; see clipvip_jax/distributed/sharding.py. A run may resume on another mesh."""
  return ConfigDict(
    {
      "data": -1,  # shards of the batch; -1: all devices that the other axes leave
      "fsdp": 1,  # shards of the batch and of every large parameter, for models that exceed one device's memory
      "tensor": 1,  # shards of the heads and hidden units of a block
    }
  )


def host() -> ConfigDict:
  """Returns the host section: settings that do not affect results. A run may resume with other values."""
  return ConfigDict(
    {
      "num_workers": 8,  # data loading processes; 0: threads of the main process
      "log_every": 50,  # steps
      "keep_checkpoints": 3,  # the newest ones; the best checkpoint is kept in addition
      # Seconds without progress (a step, an evaluation batch or a checkpoint) after which a process counts as hung: it
      # dumps the stacks of its threads and exits with code 75. Must exceed the compile time of the first step and the
      # load time of the slowest batch. 0: disabled.
      "watchdog_timeout": 1800,
      # Folder of JAX's persistent compilation cache, so that a resumed run need not compile; relative to the workdir
      # unless absolute; empty: no cache. JAX_COMPILATION_CACHE_DIR takes precedence. Only process 0 writes it.
      "compilation_cache": "compiled",
      # With a workdir on gs:// or s3://: local folder for its small files, which are uploaded as they change, and for
      # copies of checkpoints; empty: the system's temporary folder.
      "scratch_dir": "",
      # Where the curves go, in addition to metrics.jsonl: tensorboard, wandb, mlflow, or MODULE:CLASS, a subclass of
      # clipvip_jax.tracking.tracker.Tracker; several separated by commas; empty: none. See docs/training.md.
      "tracker": "tensorboard",
      # Steps to trace with jax.profiler, as in "10-15" or "10", into the folder profile of the workdir; empty: none.
      "profile_steps": "",
    }
  )
