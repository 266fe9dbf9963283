"""Post-pretraining on a mixture: video with subtitles and captions, video with one text, images with one text.

Every batch comes from one corpus of the mixture; texts that the corpus lacks are masked, and an image is a video of one
frame. Hyper-parameters are those of post_pretrain.py. Half of the batches come from HD-VILA-100M, a quarter each from
WebVid and image-text pairs. Requires CLIP's weights and the three corpora.

Variants: b32 (default), b16, the larger sizes, SMALL_HARDWARE (see configs/variants.py), and smoke: a few steps on
three views of the embedded corpus, one without captions and one of single frames.
"""

from ml_collections import ConfigDict

from clipvip_jax.configs import common, post_pretrain, sizes, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """Returns the recipe with the comma-separated variants of `arg` applied in order."""
  config = common.base()
  post_pretrain.b32(config)
  config.mix.video_text = common.mix_corpus(name="webvid", subtitle="description", caption="", weight=0.5)
  config.mix.image_text = common.mix_corpus(name="image_text", num_frames=1, subtitle="", caption="caption", weight=0.5)
  return variants.apply_variants(config, arg, VARIANTS, post_pretrain.BASES)


def smoke(config: ConfigDict) -> None:
  """12 steps: six batches with both texts, three with subtitles only, three of captioned single frames."""
  post_pretrain.smoke(config)
  embedded = {"name": config.data.name, "config": config.data.config}
  config.mix.video_text.update({**embedded, "num_frames": config.data.num_frames})
  config.mix.image_text.update(embedded)


VARIANTS: dict[str, variants.Variant] = {
  **{name: post_pretrain.VARIANTS[name] for name in sizes.SIZES},
  "smoke": smoke,
  **variants.SMALL_HARDWARE,
}
