"""Post-pretraining of CLIP on video with subtitles and captions of middle frames (section 4.1 of the paper).

The default is the paper's B/32 on HD-VILA-100M. It requires CLIP's weights and the built corpus.

| variant | effect |
|---|---|
| b32 | default |
| b16 | ViT-B/16 |
| l14, l14_336, h14, bigg14 | larger CLIPs, which the paper does not have; see configs/sizes.py |
| demo | a small model from random weights on the embedded corpus with loss (a) V-S + F-C: minutes on two cores |
| smoke | the demo in 12 steps on a few clips |
| own_videos | a manifest of your own videos, from any CLIP: see docs/own_videos.md |

TEMPORAL, OMNISOURCE and SMALL_HARDWARE are available as well; see configs/variants.py. `single_frame` is the control
for the demo's twins.
"""

import functools

from ml_collections import ConfigDict

from clipvip_jax.configs import common, sizes, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = common.base()
  b32(config)
  return variants.apply_variants(config, arg, VARIANTS, BASES)


def b32(config: ConfigDict) -> None:
  """ViT-B/32 with a global batch of 256 (32 clips per GPU on 8 GPUs)."""
  config.init_from = sizes.set_size(config, "b32").clip
  config.train.batch_size = 256


def b16(config: ConfigDict) -> None:
  """ViT-B/16 with a global batch of 128 (16 clips per GPU on 8 GPUs)."""
  config.init_from = sizes.set_size(config, "b16").clip
  config.train.batch_size = 128


def large(name: str, config: ConfigDict) -> None:
  """One of sizes.LARGE with the hyper-parameters of B/16, which the paper does not have."""
  b16(config)
  config.init_from = sizes.set_size(config, name).clip


def demo(config: ConfigDict) -> None:
  """1.1 M parameters, 32 x 32 pixels, 6 frames, from random weights on the embedded corpus.

  Training from random weights needs a larger learning rate, and sinusoidal initial values of the position and time
  embeddings: the zero-initialised time embedding that suits CLIP's weights hides the frame order for too long. The loss
  is variant (a) of section 3.4, not the paper's choice (d): V-S,C also aligns a video with the caption of a single
  frame, which carries no motion, and this slows down learning from random weights.
  """
  config.init_from = ""
  config.loss = "vs_fc"
  config.model.update(
    {
      "image_size": 32,
      "patch_size": 8,
      "embed_dim": 128,
      "dtype": "float32",
      "embedding_init": "scratch",
      "vision": {"width": 128, "layers": 3, "heads": 4, "mlp": 512, "time_positions": 6},
      "text": {"vocab_size": 512, "positions": 28, "width": 128, "layers": 2, "heads": 4, "mlp": 512},
    }
  )
  config.data.update(
    {
      "name": "moving_shapes",
      "config": "demo",
      "prepare": True,
      "num_frames": 6,
      "text_length": 28,
      "tokenizer": "words",
    }
  )
  config.optimizer.update({"learning_rate": 2e-3, "warmup_ratio": 0.1})
  config.train.update({"batch_size": 128, "num_steps": 640, "eval_every": 160, "checkpoint_every": 160})
  config.evaluate.update({"final_splits": ("test", "test_unseen"), "batch_size": 64})
  config.host.update({"num_workers": 0, "log_every": 20})


def smoke(config: ConfigDict) -> None:
  """12 steps of the tiny model with the paper's loss (d)."""
  demo(config)
  config.loss = "vsc_fc"
  tiny(config)
  config.train.update({"num_steps": 12, "eval_every": 6, "checkpoint_every": 3})


def own_videos(config: ConfigDict) -> None:
  """The user's own videos, listed in a manifest, from OpenAI's B/32: thousands of clips rather than millions.

  Any other CLIP is named by `init_from` alone, or by a size. The best checkpoint is selected by the captions of
  held-out clips.
  """
  if config.init_from == sizes.SIZES["b32"].clip:
    config.init_from = "hf://openai/clip-vit-base-patch32"
  config.sizes_from_weights = True
  config.data.name = "video_manifest"
  config.train.update({"batch_size": 64, "num_steps": 1000, "eval_every": 100, "checkpoint_every": 100})
  config.evaluate.update({"query": "caption", "final_splits": ("validation",), "batch_size": 64})
  config.host.update({"num_workers": 4, "keep_checkpoints": 1})


def tiny(config: ConfigDict) -> None:
  """Shrinks the demo: towers of one narrow block and the smallest configuration of the corpus."""
  config.data.config = "smoke"
  tower = {"width": 32, "layers": 1, "heads": 2, "mlp": 64}
  config.model.update({"embed_dim": 32, "vision": tower, "text": tower})
  config.train.batch_size = 16
  config.evaluate.update({"batch_size": 16, "num_examples": 4})
  config.host.log_every = 3


BASES = (*sizes.SIZES, "demo", "smoke")
VARIANTS: dict[str, variants.Variant] = {
  "b32": b32,
  "b16": b16,
  **{name: functools.partial(large, name) for name in sizes.LARGE},
  "demo": demo,
  "smoke": smoke,
  "own_videos": own_videos,
  **variants.TEMPORAL,
  **variants.OMNISOURCE,
  **variants.SMALL_HARDWARE,
}
