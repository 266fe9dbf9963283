"""Python interface for inference: embeds videos and texts.

  model = clipvip_jax.load("hf://openai/clip-vit-base-patch32")
  videos = model.embed_videos(["cat.mp4", "dog.mp4"])
  scores = model.embed_texts(["a dog catches a frisbee"]) @ videos.T

Letters: N items, B batch, T frames, S image side in pixels, E embedding size.
"""

import functools
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.utils.progress import ProgressReporter

_TEXT_BUCKET = 8  # texts are padded to a multiple of this many tokens, which bounds the number of compilations

# Bytes of a block's hidden activations that CPUs compute at once: about the size of their caches.
_CPU_HIDDEN_BYTES = 2**24

# What `read_media.read_clip` takes: a path, or a uint8 array [T, H, W, 3].
Video = str | os.PathLike[str] | np.ndarray


class EmbeddingModel:
  """Both towers with their weights, replicated on all devices.

  Attributes:
    source: SOURCE of the weights.
    config: `config.model`, and `config.data` with num_frames, text_length and crop.
    params: the parameters.
    net: the Flax module of both towers.
    tokenizer: for the vocabulary of the weights; None if it is unknown.
  """

  def __init__(
    self, source: str, config: ConfigDict, params: Mapping[str, Any], tokenizer: Tokenizer | None, batch_size: int
  ):
    """`batch_size` is the most clips or texts over all devices, and is rounded up to a multiple of their number."""
    self.source, self.config, self.params = source, config, params
    self.tokenizer = tokenizer
    self._batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
    self.net = clip_vip.from_config(config.model)
    mesh = sharding.make_mesh()
    replicated, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def embed(method: str):
      return jax.jit(
        lambda params, x: self.net.apply({"params": params}, x, method=method),
        in_shardings=(replicated, split),
        out_shardings=replicated,
      )

    self._embed_video, self._embed_text = embed("embed_video"), embed("embed_text")

  @functools.cached_property
  def identity(self) -> str:
    """Hexadecimal digest of the weights, the model's configuration, the number of frames and their crop."""
    config = self.config.to_dict()
    if config["data"]["crop"] == "squash":
      del config["data"]["crop"]  # as in indexes of earlier versions
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(traverse_util.flatten_dict(self.params, sep="/").items()):
      digest.update(name.encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()

  def read_clip(self, video: Video) -> Float[np.ndarray, "t s s 3"]:
    """Reads the normalised pixels of one video; see `clipvip_jax.input_pipeline.read_media.read_clip`."""
    data = self.config.data
    return read_media.read_clip(video, data.num_frames, self.config.model.image_size, data.crop)

  def embed_videos(self, videos: Sequence[Video], *, progress: bool | None = None) -> Float[np.ndarray, "n e"]:
    """Embeds videos into features of unit length.

    Args:
      videos: each a path to a video or image file, a folder of frames, or a uint8 array [T, H, W, 3] of any T, H and W.
      progress: whether to print progress lines to stderr; None: if stderr is a terminal.

    Raises:
      UserError: a video cannot be read (names it), `videos` is a single video, or features are not finite.
    """
    if isinstance(videos, str | os.PathLike) or (isinstance(videos, np.ndarray) and videos.ndim < 5):
      raise UserError("embed_videos expects a list of videos, not a single video; put it into a list")
    clips = read_media.map_in_threads(videos, self.read_clip, threads=os.cpu_count() or 1)
    show = sys.stderr.isatty() if progress is None else progress
    reporter = ProgressReporter(len(videos), "videos", functools.partial(print, file=sys.stderr))
    rows = []
    for row in self.embed_pixels(_raise_errors(clips), shrink_last=True):
      rows.append(row)
      if show:
        reporter.update(len(rows))
    return self._stack(rows, videos)

  def embed_pixels(
    self, pixels: Iterable[Float[np.ndarray, "t s s 3"]], *, shrink_last: bool = False
  ) -> Iterator[Float[np.ndarray, " e"]]:
    """Embeds clips as returned by `read_clip`, batched and padded here; yields features in order, batch by batch.

    Args:
      pixels: of the clips.
      shrink_last: whether the last batch may be smaller, which saves time. Otherwise all batches have one shape, so
        that the features of a clip are bit-identical however many clips there are.
    """
    pending: tuple[jax.Array, int] | None = None  # one batch computes while the next is read
    for batch, count in _batches(pixels, min(self._batch_size, _most_clips(self.config)), shrink_last):
      features = self._embed_video(self.params, batch)
      if pending is not None:
        yield from np.asarray(pending[0])[: pending[1]]
      pending = features, count
    if pending is not None:
      yield from np.asarray(pending[0])[: pending[1]]

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
    """Embeds texts into features of unit length; texts that are too long are truncated.

    Raises:
      UserError: `texts` is a single text or holds something else, the weights have no tokenizer, or features are not
        finite.
    """
    if self.tokenizer is None:
      raise UserError(
        f"{self.source}: no tokenizer is known for a vocabulary of {self.config.model.text.vocab_size}; pass one with"
        " load(..., tokenizer='tokenizer.json')"
      )
    ids = self.tokenizer(texts, self.config.data.text_length)
    # Tokens behind the end of a text do not affect its features: texts of similar length share a batch, which is cut to
    # the longest of them.
    order = np.argsort(ids.argmax(1), kind="stable")
    rows: list[np.ndarray] = []
    for batch, count in _batches(ids[order], self._batch_size, shrink_last=True):
      longest = int(batch.argmax(1).max()) + 1
      width = min(-(-longest // _TEXT_BUCKET) * _TEXT_BUCKET, batch.shape[1])
      rows.extend(np.asarray(self._embed_text(self.params, batch[:, :width]))[:count])
    return self._stack([rows[i] for i in np.argsort(order)], texts)

  def _stack(self, rows: Sequence[np.ndarray], items: Sequence[Any]) -> Float[np.ndarray, "n e"]:
    features = np.array(rows, np.float32).reshape(-1, self.config.model.embed_dim)
    is_finite = np.isfinite(features).all(axis=1)
    if not is_finite.all():
      item = printable(repr(items[int(is_finite.argmin())]), 80)
      raise UserError(f"{self.source}: the features of {item} are not finite; use other weights, or dtype='float32'")
    return features


def _most_clips(config: ConfigDict) -> int:
  """Returns the most clips to compute at once: on CPUs, those whose activations fit the caches, at least one each."""
  if jax.default_backend() != "cpu":
    return sys.maxsize
  model = config.model
  tokens = config.data.num_frames * (model.image_size // model.patch_size) ** 2
  clip_bytes = tokens * model.vision.mlp * np.dtype(model.dtype).itemsize
  return max(1, _CPU_HIDDEN_BYTES // clip_bytes) * jax.device_count()


def _batches(items: Iterable[np.ndarray], size: int, shrink_last: bool) -> Iterator[tuple[np.ndarray, int]]:
  """Yields (stacked items, how many of them are real); the last batch is padded with its last item."""
  items = iter(items)
  while batch := list(itertools.islice(items, size)):
    padded_size = fitting_batch_size(len(batch), size) if shrink_last else size
    yield np.stack(batch + [batch[-1]] * (padded_size - len(batch))), len(batch)


def fitting_batch_size(count: int, largest: int) -> int:
  """Returns the least size of a batch that holds `count` items: a power of two for each device, which bounds the number
  of compilations, or `largest`, rounded up to a multiple of the number of devices."""
  devices = jax.device_count()
  size = devices
  while size < min(count, largest):
    size *= 2
  return min(size, -(-largest // devices) * devices)


def _raise_errors(clips: Iterable[tuple[Video, np.ndarray | MediaError]]) -> Iterator[np.ndarray]:
  for _, clip in clips:
    if isinstance(clip, MediaError):
      raise clip
    yield clip
