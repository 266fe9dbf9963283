"""Contrastive losses over the global batch (section 3.4 of the paper): every variant that the paper compares.

Letters: B batch, E embedding size. `v` video, `s` subtitle, `f` middle frame, `c` caption of the middle frame. All
features are float32 of unit length; `scale` is exp(logit_scale). The two directions of every contrast are summed,
not averaged.

A pair whose text is missing is dropped by its mask: it is neither a target nor a negative of the contrast it would
have been part of, so the value and all other gradients are those of the batch without it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Features = Float[Array, "b e"]
Mask = Bool[Array, " b"]
Scalar = Float[Array, ""]

# Stands for minus infinity: exp() of it is 0, and unlike infinity it makes no NaN where a whole row is masked.
_ABSENT = -1e30

# Logits of more rows and columns than this are computed by blocks of CHUNK, so that memory grows with B, not with B^2.
WHOLE, CHUNK = 16_384, 2_048

# What a loss reads: features `video`, `subtitle`, `frame` and `caption` [B, E], and `subtitle_mask` and `caption_mask`
# [B], true where the text exists. Features that a loss does not use may be left out. A masked row may hold anything,
# NaN included: it is replaced by zeros before it meets another row.
Batch = Mapping[str, Array]


class View:
  """A device's view of the global batch: its own n rows of everything, and all B.

  Every direction of a contrast is computed for own rows against all columns, so no device holds more than [n, B]
  logits. Features are gathered once, and their gradients are summed and scattered once.
  """

  def __init__(self, batch: Batch, scale: Scalar, axes: Sequence[str], chunk: int | None):
    """`axes`: of the mesh that the batch is split over, inside `jax.shard_map`; none: the batch is here as a whole."""
    self._own, self._axes, self._chunk = batch, tuple(axes), chunk
    self._all = {name: self._gather(x) for name, x in batch.items()}
    self.scale = scale

  def _gather(self, own: Array) -> Array:
    return jax.lax.all_gather(own, self._axes, tiled=True) if self._axes else own

  def _clean(self, everything: Batch, name: str, mask: str) -> Features:
    """Zeros in masked rows, so that a NaN there cannot spread: 0 times NaN is NaN, in gradients as well."""
    return jnp.where(everything[mask][:, None], everything[name], 0.0)

  def pairs(self, x: str, y: str, mask: str) -> Float[Array, " n"]:
    """Logits of x and y of the same clip."""
    return self.scale * (self._clean(self._own, x, mask) * self._clean(self._own, y, mask)).sum(1)

  def log_sum(
    self, x: str, y: str, mask: str, *, of: str = "", others: bool = False, prior: Array | None = None
  ) -> Float[Array, " n"]:
    """log of the sum of exp(logits) of every own x to all y that exist.

    Args:
      mask: which y exist.
      of: which x exist; `mask` if it is not named.
      others: leaves out the y of the same clip.
      prior: [n], of own y: logits l become l exp(l - prior), as dual softmax has them.
    """
    rows, columns = self._clean(self._own, x, of or mask), self._clean(self._all, y, mask)
    index = jnp.arange(len(columns))
    first = jax.lax.axis_index(self._axes) * len(rows) if self._axes else 0
    without = first + index[: len(rows)] if others else jnp.full(len(rows), -1)
    sides = (rows, without), (columns, index, self._all[mask], None if prior is None else self._gather(prior))
    chunk = self._chunk
    if chunk is None:
      chunk = 0 if max(len(rows), len(columns)) <= WHOLE else CHUNK
    return _chunked_log_sum(*sides, self.scale, chunk) if chunk else _block_log_sum(*sides, self.scale)

  def mean(self, *groups: tuple[Float[Array, " n"], str]) -> Scalar:
    """Mean of (rows, mask) over the rows of the global batch that exist; 0 where none does."""
    total = sum(jnp.where(self._own[mask], rows, 0.0).sum() for rows, mask in groups)
    count = sum(self._all[mask].sum() for _, mask in groups)
    if self._axes:
      # Every device counts the same masks; the mean of equal counts tells the compiler that they are equal.
      total, count = jax.lax.psum(total, self._axes), jax.lax.pmax(count, self._axes)
    return total / jnp.maximum(count, 1)


def _block_log_sum(rows: Any, columns: Any, scale: Scalar) -> Float[Array, " n"]:
  """See `View.log_sum`. rows: (x, index of the column to leave out); columns: (y, index, mask, prior)."""
  (x, without), (y, index, mask, prior) = rows, columns
  # In full float32: accelerators round a product's inputs otherwise, and scale is up to 200.
  logits = scale * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
  if prior is not None:
    logits = _times_softmax(logits, prior)
  there = mask & (index != without[:, None])
  return jax.nn.logsumexp(jnp.where(there, logits, _ABSENT), axis=1)


def _times_softmax(logits: Array, log_sums: Array) -> Array:
  """Logits times their softmax. A logit that exists is at most the sum that it is part of; others must not overflow."""
  return logits * jnp.exp(jnp.minimum(logits - log_sums, 0.0))


def _chunked_log_sum(rows: Any, columns: Any, scale: Scalar, chunk: int) -> Float[Array, " n"]:
  """The same by blocks [chunk, chunk], which are computed again for the gradient and never kept."""
  count = len(rows[0])
  rows, columns = (jax.tree.map(lambda x: _split(x, chunk), side) for side in (rows, columns))
  block = jax.checkpoint(lambda rows, columns: _block_log_sum(rows, columns, scale))

  def against_all(rows):
    sums = jax.lax.map(lambda columns: block(rows, columns), columns)
    return jax.nn.logsumexp(sums, axis=0)

  return jax.lax.map(against_all, rows).reshape(-1)[:count]


def _split(x: Array, chunk: int) -> Array:
  """[N, ...] -> [ceil(N / chunk), chunk, ...], padded with zeros; as a mask, they are false."""
  padded = jnp.pad(x, [(0, -len(x) % chunk)] + [(0, 0)] * (x.ndim - 1))
  return padded.reshape(-1, chunk, *x.shape[1:])


def _contrast(view: View, x: str, y: str, mask: str) -> Scalar:
  """CE(x -> y) + CE(y -> x), each with the same clip as target, over the rows and columns that exist."""
  target = view.pairs(x, y, mask)
  return view.mean((view.log_sum(x, y, mask) - target, mask)) + view.mean((view.log_sum(y, x, mask) - target, mask))


def _video_subtitle(view: View) -> Scalar:
  return _contrast(view, "video", "subtitle", "subtitle_mask")


def _video_caption(view: View) -> Scalar:
  return _contrast(view, "video", "caption", "caption_mask")


def _frame_caption(view: View) -> Scalar:
  return _contrast(view, "frame", "caption", "caption_mask")


def _video_both_texts(view: View) -> Scalar:
  """V-S,C: a video has two positives, and subtitles and captions are each other's negatives.

  Video side: row i of the first is `[v_i.s_i, v_i.s_j (j != i), v_i.c_j (j != i)]`, of the second the same with
  target v_i.c_i, 2B - 1 entries each. Text side: CE(s -> v) + CE(c -> v). The sum of the four.
  """
  masks = {"subtitle": "subtitle_mask", "caption": "caption_mask"}

  def sides(positive, other):
    mask = masks[positive]
    target = view.pairs("video", positive, mask)
    negatives = view.log_sum("video", other, masks[other], of=mask, others=True)
    of_video = jnp.logaddexp(view.log_sum("video", positive, mask), negatives)
    of_text = view.log_sum(positive, "video", mask)
    return view.mean((of_video - target, mask)) + view.mean((of_text - target, mask))

  return sides("subtitle", "caption") + sides("caption", "subtitle")


def _joint_batch(view: View) -> Scalar:
  """V-S over [v; f] against [s; c], 2B x 2B."""
  sides = (("video", "frame"), ("subtitle", "caption"))
  masks = ("subtitle_mask", "caption_mask")
  targets = [view.pairs(x, y, mask) for x, y, mask in zip(*sides, masks, strict=True)]

  def direction(rows, columns):
    groups = []
    for x, target, own in zip(rows, targets, masks, strict=True):
      sums = [view.log_sum(x, y, mask, of=own) for y, mask in zip(columns, masks, strict=True)]
      groups.append((jnp.logaddexp(*sums) - target, own))
    return view.mean(*groups)

  return direction(*sides) + direction(*reversed(sides))


def _video_subtitle_dual_softmax(view: View) -> Scalar:
  """V-S whose logits, in each direction, are first multiplied by their softmax over the queries."""
  mask = "subtitle_mask"
  target = view.pairs("video", "subtitle", mask)

  def direction(x, y):
    prior = view.log_sum(y, x, mask)  # of each y over all x
    rows = view.log_sum(x, y, mask, prior=prior)
    return view.mean((rows - _times_softmax(target, prior), mask))

  return direction("video", "subtitle") + direction("subtitle", "video")


@dataclasses.dataclass(frozen=True)
class Loss:
  """A variant: its terms are summed. `uses` names the features it reads."""

  definition: str
  terms: tuple[Callable[[View], Scalar], ...]
  uses: frozenset[str]

  def __call__(
    self, batch: Batch, logit_scale: Scalar, *, axes: Sequence[str] = (), chunk: int | None = None
  ) -> Scalar:
    """The loss of a global batch, float32.

    Args:
      batch: of the whole batch; or inside `jax.shard_map` over `axes` this device's rows (see `sharding.sharded_loss`).
      chunk: side of the blocks in which logits are computed, 0: whole; None: whole up to WHOLE rows or columns, then
        by CHUNK.
    """
    view = View(batch, jnp.exp(logit_scale), axes, chunk)
    return sum((term(view) for term in self.terms), start=jnp.float32(0))


_PAIR = frozenset({"video", "subtitle"})
_TRIPLE = _PAIR | {"caption"}
_ALL = _TRIPLE | {"frame"}

# Section 3.4 and table 4 of the paper; its letters stand in brackets. Last, what an image-text model is trained with.
LOSSES = {
  "vs": Loss("V-S", (_video_subtitle,), _PAIR),
  "vs_fc": Loss("(a) V-S + F-C", (_video_subtitle, _frame_caption), _ALL),
  "vs_vc": Loss("(b) V-S + V-C", (_video_subtitle, _video_caption), _TRIPLE),
  "vs_vc_fc": Loss("(c) V-S + V-C + F-C", (_video_subtitle, _video_caption, _frame_caption), _ALL),
  "vsc": Loss("V-S,C", (_video_both_texts,), _TRIPLE),
  "vsc_fc": Loss("(d) V-S,C + F-C, the paper's choice", (_video_both_texts, _frame_caption), _ALL),
  "joint_batch": Loss("V-S over [v; f] against [s; c]", (_joint_batch,), _ALL),
  "vs_dual_softmax": Loss("V-S with dual softmax", (_video_subtitle_dual_softmax,), _PAIR),
  "fc": Loss(
    "F-C: CLIP's own, on middle frames and their captions", (_frame_caption,), frozenset({"frame", "caption"})
  ),
}
