"""Post-pretraining on a mix: video with subtitles and captions, video with one text, images with one text.

The model sees more language than subtitles hold. Each batch is of one source, whose missing texts are masked, and an
image is a video of one frame. The numbers are those of post_pretrain.py; the steps are shared by the weights, one half
for HD-VILA-100M. It needs CLIP's weights and the three corpora. Variants, separated by commas:

| variant | is |
|---|---|
| b32 | the default |
| b16 | ViT-B/16 |
| those of variants.SMALL_HARDWARE | parts frozen, patches left out, activations computed twice |
| smoke | three sources of the embedded corpus, one without captions and one of single frames, in a few steps |
"""

from ml_collections import ConfigDict

from configs import common, post_pretrain, variants


def get_config(arg: str | None = None) -> ConfigDict:
  """The recipe with the variants of `arg` applied in order."""
  config = common.base()
  b32(config)
  config.mix.video_text = common.source(name="webvid", subtitle="description", caption="", weight=0.5)
  config.mix.image_text = common.source(name="image_text", num_frames=1, subtitle="", caption="caption", weight=0.5)
  return common.apply_variants(config, arg, VARIANTS)


def b32(config: ConfigDict) -> None:
  """32 clips a GPU on 8 GPUs."""
  post_pretrain.b32(config)


def b16(config: ConfigDict) -> None:
  """16 clips a GPU on 8 GPUs."""
  post_pretrain.b16(config)


def smoke(config: ConfigDict) -> None:
  """Twelve steps: six of clips with both texts, three of clips with a subtitle alone, three of captioned frames."""
  post_pretrain.smoke(config)
  embedded = {"name": config.data.name, "config": config.data.config}
  config.mix.video_text.update({**embedded, "num_frames": config.data.num_frames})
  config.mix.image_text.update(embedded)


VARIANTS = {"b32": b32, "b16": b16, "smoke": smoke, **variants.SMALL_HARDWARE}
