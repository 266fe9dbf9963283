"""Random weights of CLIP's large sizes, few blocks deep, in the layout of OpenAI's and OpenCLIP's files."""

import numpy as np

# Size -> (pixels, patch, embedding, vision width, vision hidden units, text width), as OpenCLIP's configurations have
# them: the hidden units of bigg14 are 4.9231 x 1664.
SIZES = {
  "l14": (224, 14, 768, 1024, 4096, 768),
  "l14_336": (336, 14, 768, 1024, 4096, 768),
  "h14": (224, 14, 1024, 1280, 5120, 1024),
  "bigg14": (224, 14, 1280, 1664, 8192, 1280),
}
HEADS = {"l14": (16, 12), "l14_336": (16, 12), "h14": (16, 16), "bigg14": (16, 20)}
OPENAI = ("l14", "l14_336")  # whose files are OpenAI's, with sizes as tensors


def openclip_tensors(size, layers=1, vocab_size=512):
  """Returns {OpenCLIP's name: float32 array}."""
  image, patch, embed, vision, hidden, text = SIZES[size]
  values = np.random.default_rng(0).normal(size=1_000_003).astype(np.float32) * 0.02

  def draw(*shape):
    return np.resize(values, shape)

  tensors = {
    "logit_scale": np.array(4.6, np.float32),
    "positional_embedding": draw(77, text),
    "token_embedding.weight": draw(vocab_size, text),
    "text_projection": draw(text, embed),
    "visual.class_embedding": draw(vision),
    "visual.positional_embedding": draw((image // patch) ** 2 + 1, vision),
    "visual.proj": draw(vision, embed),
    "visual.conv1.weight": draw(vision, 3, patch, patch),
  }
  norms = {"ln_final": text, "visual.ln_pre": vision, "visual.ln_post": vision}
  for tower, width, mlp in (("visual.", vision, hidden), ("", text, 4 * text)):
    for layer in range(layers):
      block = f"{tower}transformer.resblocks.{layer}"
      norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
      tensors[f"{block}.attn.in_proj_weight"] = draw(3 * width, width)
      tensors[f"{block}.attn.in_proj_bias"] = draw(3 * width)
      for name, rows, columns in (
        ("attn.out_proj", width, width),
        ("mlp.c_fc", mlp, width),
        ("mlp.c_proj", width, mlp),
      ):
        tensors[f"{block}.{name}.weight"] = draw(rows, columns)
        tensors[f"{block}.{name}.bias"] = draw(rows)
  for name, width in norms.items():
    tensors[f"{name}.weight"] = 1 + draw(width)
    tensors[f"{name}.bias"] = draw(width)
  if size in OPENAI:
    tensors |= {"input_resolution": np.array(image), "context_length": np.array(77), "vocab_size": np.array(vocab_size)}
  return tensors
