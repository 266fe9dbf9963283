"""CLIP-ViP in JAX and Flax: adapting image-text models to video (Xue et al., ICLR 2023, arXiv 2209.06430)."""

from typing import Any

from clipvip_jax.utils.versions import __version__ as __version__

__all__ = ["load"]


def __getattr__(name: str) -> Any:
  # Late: loader processes and --help must not wait for JAX.
  if name == "load":
    from clipvip_jax.inference.embedding_model import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
