"""Post-pretraining: CLIP to CLIP-ViP on video with subtitles and captions of middle frames (section 4.1 of the paper).

Plain, this is the paper's B/32 on HD-VILA-100M; it needs CLIP's weights and a builder of that corpus. Variants,
separated by commas:

| variant | is |
|---|---|
| b32 | the default |
| b16 | ViT-B/16 |
| demo | a small model from random weights on the embedded corpus, loss (a) V-S + F-C: minutes on two cores |
| smoke | the demo in a few steps on a handful of clips: does everything run? |
| those of variants.TEMPORAL | baselines and ablations of the model; single_frame is the control for the demo's twins |
| those of variants.OMNISOURCE | other losses, one kind of text alone |
| those of variants.SMALL_HARDWARE | parts frozen, patches left out, activations computed twice |
"""

from ml_collections import ConfigDict

from configs import common, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """The recipe with the variants of `arg` applied in order."""
  config = common.base()
  b32(config)
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """32 clips a GPU on 8 GPUs."""
  config.init_from = "weights/clip-vit-base-patch32/model.safetensors"
  config.model.patch_size = 32
  config.train.batch_size = 256


def b16(config: ConfigDict) -> None:
  """16 clips a GPU on 8 GPUs."""
  config.init_from = "weights/clip-vit-base-patch16/model.safetensors"
  config.model.patch_size = 16
  config.train.batch_size = 128


def demo(config: ConfigDict) -> None:
  """1.1 M parameters, 32 pixels, 6 frames.

  From random weights the learning rate is that of a small model, and the embeddings of position and time start as
  waves: with time at zero, which is right for CLIP's weights, the order of frames stays invisible for too long. The
  loss is variant (a) of section 3.4 instead of the paper's choice (d): V-S,C also pulls a video to the caption of one
  frame, which knows no direction of motion, and a model that knows nothing yet is the slower for it.
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
  config.train.update({"batch_size": 128, "num_steps": 800, "eval_every": 160, "checkpoint_every": 160})
  config.evaluate.update({"final_splits": ("test", "test_unseen"), "batch_size": 64})
  config.host.update({"num_workers": 0, "log_every": 20})


def smoke(config: ConfigDict) -> None:
  """Twelve steps, with the paper's loss."""
  demo(config)
  config.loss = "vsc_fc"
  tiny(config)
  config.train.update({"num_steps": 12, "eval_every": 6, "checkpoint_every": 3})


def tiny(config: ConfigDict) -> None:
  """Makes the demo smaller still: towers of one narrow block, and the smallest configuration of the corpus."""
  config.data.config = "smoke"
  tower = {"width": 32, "layers": 1, "heads": 2, "mlp": 64}
  config.model.update({"embed_dim": 32, "vision": tower, "text": tower})
  config.train.batch_size = 16
  config.evaluate.update({"batch_size": 16, "num_examples": 4})
  config.host.log_every = 3


VARIANTS = {
  "b32": b32,
  "b16": b16,
  "demo": demo,
  "smoke": smoke,
  **variants.TEMPORAL,
  **variants.OMNISOURCE,
  **variants.SMALL_HARDWARE,
}
