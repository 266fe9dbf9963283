"""CLIP-ViP in JAX and Flax: adapts image-text models to video (Xue et al., ICLR 2023, arXiv 2209.06430).

  import clipvip_jax

  model = clipvip_jax.load("hf://openai/clip-vit-base-patch32")
  videos = model.embed_videos(["cat.mp4", "dog.mp4"])
  scores = model.embed_texts(["a dog catches a frisbee"]) @ videos.T

`load` is described in `clipvip_jax.inference.load_model`, the model in `embedding_model`; everything else is a
command: `clipvip --help`.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from clipvip_jax.inference.load_model import load as load

# A command stops here on an unsupported Python, where packages are missing. Launchers run where nothing is installed.
if sys.argv[:1] == ["-m"] and not (3, 11) <= sys.version_info[:2] <= (3, 13):
  version = sys.version.split()[0]
  print(f"error: Python {version} is not supported; use Python 3.11, 3.12 or 3.13", file=sys.stderr)
  sys.exit(2)

from clipvip_jax.utils.versions import __version__ as __version__

__all__ = ["load"]


def __getattr__(name: str) -> Any:
  # Late: loader processes and --help must not wait for JAX.
  if name == "load":
    from clipvip_jax.inference.load_model import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
