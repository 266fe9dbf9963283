"""Adapter that runs a model inside tasks of texts and videos of mteb, the Massive Text Embedding Benchmark (version 2).

  import clipvip_jax, mteb
  from clipvip_jax.inference.mteb_adapter import MtebEncoder

  encoder = MtebEncoder(clipvip_jax.load("build/demo"))
  results = mteb.evaluate(encoder, mteb.get_tasks(tasks=["HMDB51ZeroShot"]))

mteb and PyTorch, which it needs, are not requirements of this project: `pip install "mteb[video]"`.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.utils.errors import UserError


class MtebEncoder:
  """Implements `mteb.models.EncoderProtocol`: features of unit length, compared by their cosine."""

  def __init__(self, model: EmbeddingModel, name: str = ""):
    """Args: `name` is ORGANISATION/NAME in mteb's results; "": clipvip_jax and the end of the model's SOURCE."""
    self._model = model
    end = re.sub(r"[^\w.-]+", "-", model.source.rstrip("/").rpartition("/")[2])
    self._name = name or f"clipvip_jax/{end}"

  @functools.cached_property
  def mteb_model_meta(self) -> Any:
    """Description of the model for mteb, a `mteb.models.ModelMeta`."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    config = self._model.config
    return ModelMeta.create_empty(
      {
        "name": self._name,
        "revision": self._model.identity,
        "modalities": ["text", "video"],
        "framework": ["JAX"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "embed_dim": config.model.embed_dim,
        "max_tokens": config.data.text_length,
        "use_instructions": False,
      }
    )

  def encode(
    self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
  ) -> Float[np.ndarray, "n e"]:
    """Embeds the rows of a `torch.utils.data.DataLoader` of mteb.

    Args:
      inputs: yields batches with "text", "video" (decoders of torchcodec), or both.
      task_metadata: unused, as are the others: prompts and instructions are part of the texts.
      hf_split: unused.
      hf_subset: unused.
      prompt_type: unused.
      **kwargs: unused.

    Returns:
      Features; of a row with text and video, their mean, of unit length again.

    Raises:
      UserError: the rows have neither, or a video cannot be read.
    """
    if "video" in inputs.dataset.features:
      inputs.collate_fn = functools.partial(collate_frames, num_frames=self._model.config.data.num_frames)
    texts: list[str] = []

    def clips() -> Iterator[np.ndarray]:
      for batch in inputs:
        texts.extend(batch.get("text", ()))
        yield from map(self._model.read_clip, batch.get("video", ()))

    videos = np.array(list(self._model.embed_pixels(clips())), np.float32)
    if not texts and not len(videos):
      raise UserError(
        f"the task has neither texts nor videos, but {', '.join(inputs.dataset.features)}; choose another"
      )
    if not texts:
      return videos
    features = self._model.embed_texts(texts)
    if not len(videos):
      return features
    mean = features + videos
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)

  def similarity(self, embeddings1: Any, embeddings2: Any) -> Float[np.ndarray, "n m"]:
    """Returns the cosine of each pair of features; a single feature may be [E]."""
    return np.atleast_2d(np.asarray(embeddings1)) @ np.atleast_2d(np.asarray(embeddings2)).T

  def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float[np.ndarray, " n"]:
    """Returns the cosine of corresponding features."""
    return np.sum(np.asarray(embeddings1) * np.asarray(embeddings2), axis=-1)


def collate_frames(rows: Sequence[Mapping[str, Any]], num_frames: int) -> dict[str, list[Any]]:
  """Returns the columns of a batch, with evenly spaced frames in place of the decoders of videos."""
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  return {**columns, "video": [sample_frames(decoder, num_frames) for decoder in columns["video"]]}


def sample_frames(decoder: Any, num_frames: int) -> UInt8[np.ndarray, "t h w 3"]:
  """Returns evenly spaced frames of a `torchcodec.decoders.VideoDecoder`, as `frame_sampling.uniform_frames` does."""
  indices = uniform_frames(decoder.metadata.num_frames, num_frames)
  return np.moveaxis(np.asarray(decoder.get_frames_at(indices.tolist()).data), 1, -1)
