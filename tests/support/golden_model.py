"""The tiny golden models, loaded for inference."""

from project_paths import GOLDEN

import clipvip_jax

OPTIONS = {"vision_heads": 4, "text_heads": 4, "activation": "quick_gelu", "batch_size": 8}


def load(name="vip_tiny.pt", **options):
  """Returns the `EmbeddingModel` of a file in tests/golden/; the files do not state heads and activation."""
  return clipvip_jax.load(str(GOLDEN / name), **{**OPTIONS, **options})
