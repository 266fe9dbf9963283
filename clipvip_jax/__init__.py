"""CLIP-ViP in JAX and Flax: adapting image-text models to video (Xue et al., ICLR 2023, arXiv 2209.06430)."""

__version__ = "0.1.0"
