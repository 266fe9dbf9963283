"""Contrastive losses over the global batch (section 3.4 of the paper): every variant that the paper compares.

Letters: B global batch, n rows of it on this device, E embedding size. `v` video, `s` subtitle, `f` middle frame,
`c` caption of the middle frame. Features are float32 of unit length; `scale` is exp(logit_scale). The two directions
of every contrast are summed, not averaged.

A pair with missing text is masked: it is neither a target nor a negative, so that the value and all other gradients
are those of the batch without it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Features = Float[Array, "b e"]
Mask = Bool[Array, " b"]
Scalar = Float[Array, ""]

# A masked logit: exp() of it is 0, and unlike minus infinity it gives no NaN where a complete row is masked.
_MASKED_LOGIT = -1e30

# Logits with more rows or columns than UNCHUNKED_SIZE are computed by blocks of CHUNK rows and columns, so that memory
# grows with B, not with B^2.
UNCHUNKED_SIZE, CHUNK = 16_384, 2_048

# Inputs of a loss: features `video`, `subtitle`, `frame` and `caption` [B, E], and `subtitle_mask` and `caption_mask`
# [B], true where the text exists. Features that a loss does not use may be absent. A masked row may hold any value,
# including NaN: it is replaced by zeros first.
FeatureBatch = Mapping[str, Array]


class _Rows(NamedTuple):
  """Rows of a block of logits."""

  features: Features
  excluded: Int[Array, " b"]  # index of the column that a row excludes; -1: none


class _Columns(NamedTuple):
  """Columns of a block of logits."""

  features: Features
  indices: Int[Array, " b"]
  mask: Mask
  prior: Float[Array, " b"] | None  # see `LocalView.log_sum_exp`


class LocalView:
  """One device's view of the global batch: its own n rows, and all B rows after an all-gather.

  Each direction of a contrast computes own rows against all columns, so that no device holds more than [n, B] logits.
  Features are gathered once, and their gradients are summed and scattered once.
  """

  def __init__(self, batch: FeatureBatch, scale: Scalar, axes: Sequence[str], chunk: int | None):
    """Gathers the batch.

    Args:
      batch: own rows.
      scale: factor on similarities.
      axes: mesh axes that split the batch, inside `jax.shard_map`; (): the batch is on one device.
      chunk: see `Loss.__call__`.
    """
    self._local, self._axes, self._chunk = batch, tuple(axes), chunk
    self._global = {name: self._all_gather(x) for name, x in batch.items()}
    self.scale = scale

  def _all_gather(self, local: Array) -> Array:
    return jax.lax.all_gather(local, self._axes, tiled=True) if self._axes else local

  def _zero_masked(self, batch: FeatureBatch, name: str, mask: str) -> Features:
    """Returns features with zeros in masked rows. Otherwise a NaN there would spread: 0 times NaN is NaN."""
    return jnp.where(batch[mask][:, None], batch[name], 0.0)

  def pair_logits(self, x: str, y: str, mask: str) -> Float[Array, " n"]:
    """Returns the logits of x and y of the same clip."""
    return self.scale * (self._zero_masked(self._local, x, mask) * self._zero_masked(self._local, y, mask)).sum(1)

  def log_sum_exp(
    self, x: str, y: str, mask: str, *, row_mask: str = "", exclude_own: bool = False, prior: Array | None = None
  ) -> Float[Array, " n"]:
    """Returns log(sum(exp(logits))) of every own x over all unmasked y.

    Args:
      x: feature of the rows.
      y: feature of the columns.
      mask: mask of y.
      row_mask: mask of x; default: `mask`.
      exclude_own: excludes the y of the same clip.
      prior: [n], of own y: logits l become l * exp(l - prior), for dual softmax.
    """
    features = self._zero_masked(self._local, x, row_mask or mask)
    others = self._zero_masked(self._global, y, mask)
    index = jnp.arange(len(others))
    first = jax.lax.axis_index(self._axes) * len(features) if self._axes else 0
    excluded = first + index[: len(features)] if exclude_own else jnp.full(len(features), -1)
    rows = _Rows(features, excluded)
    columns = _Columns(others, index, self._global[mask], None if prior is None else self._all_gather(prior))
    chunk = self._chunk
    if chunk is None:
      chunk = 0 if max(len(features), len(others)) <= UNCHUNKED_SIZE else CHUNK
    if chunk:
      return _chunked_log_sum_exp(rows, columns, self.scale, chunk)
    return _block_log_sum_exp(rows, columns, self.scale)

  def mean(self, *groups: tuple[Float[Array, " n"], str]) -> Scalar:
    """Returns the mean of (values, mask) groups over the unmasked rows of the global batch; 0 where there are none."""
    total = sum(jnp.where(self._local[mask], rows, 0.0).sum() for rows, mask in groups)
    count = sum(self._global[mask].sum() for _, mask in groups)
    if self._axes:
      # Every device counts the same masks; `pmax` marks the count as replicated for the compiler.
      total, count = jax.lax.psum(total, self._axes), jax.lax.pmax(count, self._axes)
    return total / jnp.maximum(count, 1)


def _block_log_sum_exp(rows: _Rows, columns: _Columns, scale: Scalar) -> Float[Array, " n"]:
  """Computes one block of `LocalView.log_sum_exp`."""
  # In full float32: accelerators round the inputs of a product by default, and scale is up to 200.
  logits = scale * jnp.matmul(rows.features, columns.features.T, precision=jax.lax.Precision.HIGHEST)
  if columns.prior is not None:
    logits = _times_softmax(logits, columns.prior)
  unmasked = columns.mask & (columns.indices != rows.excluded[:, None])
  return jax.nn.logsumexp(jnp.where(unmasked, logits, _MASKED_LOGIT), axis=1)


def _times_softmax(logits: Array, log_sums: Array) -> Array:
  """Returns logits times their softmax. An unmasked logit is at most its log-sum; a masked one must not overflow."""
  return logits * jnp.exp(jnp.minimum(logits - log_sums, 0.0))


def _chunked_log_sum_exp(rows: _Rows, columns: _Columns, scale: Scalar, chunk: int) -> Float[Array, " n"]:
  """Computes `_block_log_sum_exp` by blocks [chunk, chunk], recomputed for the gradient instead of stored."""
  count = len(rows.features)
  row_chunks, column_chunks = (jax.tree.map(lambda x: _split(x, chunk), side) for side in (rows, columns))
  block = jax.checkpoint(lambda rows, columns: _block_log_sum_exp(rows, columns, scale))

  def over_all_columns(rows: _Rows) -> Float[Array, " n"]:
    log_sums = jax.lax.map(lambda columns: block(rows, columns), column_chunks)
    return jax.nn.logsumexp(log_sums, axis=0)

  return jax.lax.map(over_all_columns, row_chunks).reshape(-1)[:count]


def _split(x: Array, chunk: int) -> Array:
  """Reshapes [N, ...] -> [ceil(N / chunk), chunk, ...], padded with zeros (false in masks)."""
  padded = jnp.pad(x, [(0, -len(x) % chunk)] + [(0, 0)] * (x.ndim - 1))
  return padded.reshape(-1, chunk, *x.shape[1:])


def _contrast(view: LocalView, x: str, y: str, mask: str) -> Scalar:
  """Computes CE(x -> y) + CE(y -> x) over unmasked pairs; the target is the same clip."""
  target = view.pair_logits(x, y, mask)
  x_to_y = view.mean((view.log_sum_exp(x, y, mask) - target, mask))
  return x_to_y + view.mean((view.log_sum_exp(y, x, mask) - target, mask))


def _video_subtitle(view: LocalView) -> Scalar:
  return _contrast(view, "video", "subtitle", "subtitle_mask")


def _video_caption(view: LocalView) -> Scalar:
  return _contrast(view, "video", "caption", "caption_mask")


def _frame_caption(view: LocalView) -> Scalar:
  return _contrast(view, "frame", "caption", "caption_mask")


def _video_both_texts(view: LocalView) -> Scalar:
  """V-S,C: a video has two positives, and subtitles and captions are negatives of each other.

  Video side: row i of the first term is `[v_i.s_i, v_i.s_j (j != i), v_i.c_j (j != i)]`, of the second the same with
  target v_i.c_i, 2B - 1 entries each. Text side: CE(s -> v) + CE(c -> v). The loss is the sum of the four.
  """
  masks = {"subtitle": "subtitle_mask", "caption": "caption_mask"}

  def both_sides(positive: str, other: str) -> Scalar:
    mask = masks[positive]
    target = view.pair_logits("video", positive, mask)
    negatives = view.log_sum_exp("video", other, masks[other], row_mask=mask, exclude_own=True)
    video_log_sum = jnp.logaddexp(view.log_sum_exp("video", positive, mask), negatives)
    text_log_sum = view.log_sum_exp(positive, "video", mask)
    return view.mean((video_log_sum - target, mask)) + view.mean((text_log_sum - target, mask))

  return both_sides("subtitle", "caption") + both_sides("caption", "subtitle")


def _joint_batch(view: LocalView) -> Scalar:
  """V-S over [v; f] against [s; c], 2B x 2B."""
  sides = (("video", "frame"), ("subtitle", "caption"))
  masks = ("subtitle_mask", "caption_mask")
  targets = [view.pair_logits(x, y, mask) for x, y, mask in zip(*sides, masks, strict=True)]

  def direction(rows: Sequence[str], columns: Sequence[str]) -> Scalar:
    groups = []
    for x, target, row_mask in zip(rows, targets, masks, strict=True):
      log_sums = [view.log_sum_exp(x, y, mask, row_mask=row_mask) for y, mask in zip(columns, masks, strict=True)]
      groups.append((jnp.logaddexp(*log_sums) - target, row_mask))
    return view.mean(*groups)

  return direction(*sides) + direction(*reversed(sides))


def _video_subtitle_dual_softmax(view: LocalView) -> Scalar:
  """V-S with logits that are, in each direction, multiplied by their softmax over the queries first."""
  mask = "subtitle_mask"
  target = view.pair_logits("video", "subtitle", mask)

  def direction(x: str, y: str) -> Scalar:
    prior = view.log_sum_exp(y, x, mask)  # of each y over all x
    log_sum = view.log_sum_exp(x, y, mask, prior=prior)
    return view.mean((log_sum - _times_softmax(target, prior), mask))

  return direction("video", "subtitle") + direction("subtitle", "video")


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss variant.

  Attributes:
    definition: in the paper's notation.
    terms: summed.
    uses: names of the features that the terms read.
  """

  definition: str
  terms: tuple[Callable[[LocalView], Scalar], ...]
  uses: frozenset[str]

  def __call__(
    self, batch: FeatureBatch, logit_scale: Scalar, *, axes: Sequence[str] = (), chunk: int | None = None
  ) -> Scalar:
    """Computes the float32 loss of the global batch.

    Args:
      batch: features of the global batch; inside `jax.shard_map`, this device's rows (see `sharding.sharded_loss`).
      logit_scale: log of the factor on similarities.
      axes: mesh axes of `jax.shard_map` that split the batch.
      chunk: rows and columns of the blocks of logits, 0: one block; None: one block up to UNCHUNKED_SIZE rows or
        columns, blocks of CHUNK above.
    """
    view = LocalView(batch, jnp.exp(logit_scale), axes, chunk)
    return sum((term(view) for term in self.terms), start=jnp.float32(0))


_PAIR = frozenset({"video", "subtitle"})
_TRIPLE = _PAIR | {"caption"}
_ALL = _TRIPLE | {"frame"}

# Section 3.4 and table 4 of the paper, with its letters in parentheses; "fc" alone is CLIP's image-text loss.
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
