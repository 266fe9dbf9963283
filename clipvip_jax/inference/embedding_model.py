"""The Python interface: weights of any source, ready to embed videos and texts.

  model = clipvip_jax.load("hf://openai/clip-vit-base-patch32")
  videos = model.embed_videos(["cat.mp4", "dog.mp4"])
  scores = model.embed_texts(["a dog catches a frisbee"]) @ videos.T

Letters: N items, B batch, T frames, S side in pixels or tokens of a text, E embedding size.
"""

import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Float
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.tokenizer import Tokenizer, load_tokenizer
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import quiet_libtpu
from clipvip_jax.utils.progress import format_duration
from clipvip_jax.weights import load_params, sources
from clipvip_jax.weights.model_config import Hints, checked_size

_CLIP_VOCABULARY = 49408
_FRAMES = 12  # of the published models, where weights have no time embedding to tell
_TEXT_BUCKET = 8  # texts are padded to a multiple of this many tokens, so that few shapes are compiled
_SECONDS_BETWEEN_LINES = 2.0


class EmbeddingModel:
  """Both towers with their weights on the devices.

  Attributes:
    source: what was loaded.
    config: `config.model`, and `config.data` with num_frames and text_length.
    params: the parameters, a copy on every device.
    net: both towers.
    tokenizer: of the weights' vocabulary; None where there is none.
  """

  def __init__(self, source: str, config: ConfigDict, params: Any, tokenizer: Tokenizer | None, batch_size: int):
    self.source, self.config, self.params = source, config, params
    self.tokenizer = tokenizer
    self._mesh = sharding.make_mesh()
    self._batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
    self.net = clip_vip.from_config(config.model)
    everywhere, split = sharding.replicated(self._mesh), sharding.batch_sharding(self._mesh)

    def embed(method: str):
      return jax.jit(
        lambda params, x: self.net.apply({"params": params}, x, method=method),
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
      )

    self._embed_video, self._embed_text = embed("embed_video"), embed("embed_text")

  @functools.cached_property
  def identity(self) -> str:
    """Hexadecimal digits that change when the weights, the sizes or the number of frames do."""
    digest = hashlib.blake2b(json.dumps(self.config.to_dict(), sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(traverse_util.flatten_dict(self.params, sep="/").items()):
      digest.update(name.encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()

  def read(self, video: Any) -> Float[np.ndarray, "t s s 3"]:
    """Normalised pixels of one video: see `clipvip_jax.input_pipeline.read_media.read_clip` for what it may be."""
    return read_media.read_clip(video, self.config.data.num_frames, self.config.model.image_size)

  def embed_videos(self, videos: Sequence[Any], *, progress: bool | None = None) -> Float[np.ndarray, "n e"]:
    """Features of videos, of unit length.

    Args:
      videos: each a path to a video or image file, a folder of frames, or a uint8 array [T, H, W, 3] of any T, H and W.
      progress: whether to print how far it is; None: on a terminal.

    Raises:
      UserError: a video that cannot be read, by name; or one video in place of a list.
    """
    if isinstance(videos, str | os.PathLike) or (isinstance(videos, np.ndarray) and videos.ndim < 5):
      raise UserError("expected a list of videos, got one; put it into a list")
    found = read_media.read_all(videos, self.read, threads=os.cpu_count() or 1)
    rows = self.embed_pixels(_pixels_or_raise(found))
    shown = _with_progress(rows, len(videos), sys.stderr.isatty() if progress is None else progress)
    return _stack(shown, self.config.model.embed_dim)

  def embed_pixels(self, pixels: Iterable[Float[np.ndarray, "t s s 3"]]) -> Iterator[Float[np.ndarray, " e"]]:
    """Features of clips as `read` gives them, in order and as they come; batches are formed and padded inside."""
    before: Any = None  # one batch computes while the next one is read
    for batch, count in _batches(pixels, self._batch_size):
      features = self._embed_video(self.params, batch)
      if before is not None:
        yield from np.asarray(before[0])[: before[1]]
      before = features, count
    if before is not None:
      yield from np.asarray(before[0])[: before[1]]

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
    """Features of texts, of unit length; a text that is too long is cut.

    Raises:
      UserError: one text in place of a list, an entry that is no text, or no tokenizer for these weights.
    """
    if self.tokenizer is None:
      raise UserError(
        f"{self.source}: there is no tokenizer for a vocabulary of {self.config.model.text.vocab_size}; name one with"
        " load(..., tokenizer='tokenizer.json')"
      )
    ids = self.tokenizer(texts, self.config.data.text_length)
    rows = []
    for batch, count in _batches(ids, self._batch_size):
      # What stands behind a text's end never reaches its features: the batch is as wide as its longest text.
      longest = int(batch.argmax(1).max()) + 1
      width = min(-(-longest // _TEXT_BUCKET) * _TEXT_BUCKET, batch.shape[1])
      rows.append(np.asarray(self._embed_text(self.params, batch[:, :width]))[:count])
    return _stack((row for part in rows for row in part), self.config.model.embed_dim)


def _batches(items: Iterable[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, int]]:
  """(stacked items, how many of them are real): the last batch repeats its last item."""
  held: list[np.ndarray] = []
  for item in items:
    held.append(item)
    if len(held) == size:
      yield np.stack(held), size
      held = []
  if held:
    yield np.stack(held + [held[-1]] * (size - len(held))), len(held)


def _stack(rows: Iterable[np.ndarray], dim: int) -> Float[np.ndarray, "n e"]:
  return np.array(list(rows), np.float32).reshape(-1, dim)


def _pixels_or_raise(found: Iterable[tuple[Any, Any]]) -> Iterator[np.ndarray]:
  for _, result in found:
    if isinstance(result, UserError):
      raise result
    yield result


def _with_progress(rows: Iterable[np.ndarray], total: int, show: bool) -> Iterator[np.ndarray]:
  """The rows as they come, and a line every few seconds."""
  started = last = time.monotonic()
  for done, row in enumerate(rows, 1):
    now = time.monotonic()
    if show and now - last > _SECONDS_BETWEEN_LINES:
      last, speed = now, done / (now - started)
      print(
        f"{done}/{total} videos | {speed:.1f} videos/s | {format_duration((total - done) / speed)} left",
        file=sys.stderr,
      )
    yield row


def load(
  source: str | os.PathLike[str],
  *,
  num_frames: int | None = None,
  image_size: int | None = None,
  text_length: int | None = None,
  temporal: str | None = None,
  activation: str | None = None,
  vision_heads: int | None = None,
  text_heads: int | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
  batch_size: int = 32,
) -> EmbeddingModel:
  """Weights of any source as a model that embeds; see `clipvip_jax.weights.sources` for what a source may be.

  Args:
    source: a file, a folder, hf://OWNER/NAME, or a run's workdir (its best checkpoint; WORKDIR@STEP another).
    num_frames: T; None: what the weights were trained with, or 12.
    image_size: S in pixels; None: the weights'. For another one the embedding of position is resized.
    text_length: S in tokens; None: the weights'.
    temporal: "proxies" or "mean"; None: proxies, and for a plain CLIP the mean over frames.
    activation: "quick_gelu" or "gelu"; None: what the source says.
    vision_heads: None: what the source says, or 64 a head. Likewise text_heads.
    tokenizer: "clip" or a tokenizer.json; None: what lies beside the weights, or CLIP's for a vocabulary of 49,408.
    dtype: of the computation, "float32" or "bfloat16"; None: float32.
    batch_size: over all devices, rounded up so that they can share it.

  Raises:
    UserError: the source cannot be read, or an option does not fit its weights.
  """
  quiet_libtpu()
  source = os.fspath(source)
  asked = {"num_frames": num_frames, "image_size": image_size, "text_length": text_length, "batch_size": batch_size}
  for name, value in {**asked, "vision_heads": vision_heads, "text_heads": text_heads}.items():
    checked_size(value, name)
  weights = sources.read_weights(source, Hints(activation, vision_heads, text_heads))
  return from_weights(
    weights,
    num_frames=num_frames,
    image_size=image_size,
    text_length=text_length,
    temporal=temporal,
    tokenizer=tokenizer,
    dtype=dtype,
    batch_size=batch_size,
  )


def from_weights(
  weights: sources.Weights,
  *,
  num_frames: int | None = None,
  image_size: int | None = None,
  text_length: int | None = None,
  temporal: str | None = None,
  tokenizer: str | None = None,
  dtype: str | None = None,
  batch_size: int = 32,
) -> EmbeddingModel:
  """The model of weights that were read; see `load`, which raises the same errors."""
  # Weights are not bound to the devices that they were trained on.
  sizes = {name: value for name, value in weights.config.to_dict().items() if name != "attention"}
  config = ConfigDict({"model": sizes, "data": {}})
  config.model.dtype = dtype or "float32"
  config.model.image_size = image_size or config.model.image_size
  default = "mean" if weights.is_clip and weights.run is None else config.model.temporal
  config.model.temporal = temporal or default
  run = weights.run.data if weights.run is not None else ConfigDict()
  trained = run.get("num_frames") or config.model.vision.time_positions or _FRAMES
  config.data.num_frames = trained if num_frames is None else num_frames
  config.data.text_length = run.get("text_length", config.model.text.positions) if text_length is None else text_length
  if text_length is not None:
    config.model.text.positions = max(text_length, config.model.text.positions)
  if config.model.temporal == "sequence" and config.data.num_frames > config.model.text.positions:
    raise UserError(
      f"num_frames={config.data.num_frames} is more than the {config.model.text.positions} positions of"
      " temporal='sequence'"
    )
  return EmbeddingModel(weights.source, config, _place(weights, config), _tokenizer(weights, tokenizer), batch_size)


def _place(weights: sources.Weights, config: ConfigDict) -> Any:
  """The parameters, fitted to the sizes, on every device."""
  if config.data.text_length < 2:
    raise UserError(f"text_length={config.data.text_length} must be at least 2, for start and end")
  shapes = clip_vip.parameter_shapes(config.model)
  fitted = load_params.fit_to_shapes(weights, load_params.shapes_by_name(shapes))
  load_params.check_complete(fitted, shapes, weights.source)
  everywhere = sharding.replicated(sharding.make_mesh())
  return traverse_util.unflatten_dict(load_params.to_devices(fitted, dict.fromkeys(fitted, everywhere)), sep="/")


def tokenizer_name(weights: sources.Weights, asked: str | None = None) -> str:
  """What `load_tokenizer` takes: what is asked for, or else what fits the weights; "" where nothing is known to."""
  run = "" if weights.run is None else weights.run.data.get("tokenizer", "")
  trained = "" if run == "words" else run  # which left a file in the workdir
  beside = weights.tokenizer
  if asked or (weights.run is not None and (beside or trained)):
    return asked or beside or trained
  return "clip" if weights.config.text.vocab_size == _CLIP_VOCABULARY else beside


def _tokenizer(weights: sources.Weights, asked: str | None) -> Tokenizer | None:
  """The tokenizer of the weights' vocabulary; None where there is none, which only texts ask for."""
  name = tokenizer_name(weights, asked)
  if not name:
    return None
  tokenizer = load_tokenizer(name)
  vocab_size = weights.config.text.vocab_size
  if tokenizer.vocab_size != vocab_size:
    raise UserError(
      f"tokenizer {name!r} has {tokenizer.vocab_size} tokens, the weights of {weights.source!r} have {vocab_size}"
    )
  return tokenizer
