"""Contrastive losses over the global batch (section 3.4 of the paper): every variant that the paper compares.

Letters: B batch, E embedding size. `v` video, `s` subtitle, `f` middle frame, `c` caption of the middle frame. All
features are float32 of unit length; `scale` is exp(logit_scale). The two directions of every contrast are summed,
not averaged.

A pair whose text is missing is dropped by its mask: it is neither a target nor a negative of the contrast it would
have been part of, so the value and all other gradients are those of the batch without it.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Features = Float[Array, "b e"]
Mask = Bool[Array, "b"]
Scalar = Float[Array, ""]

# Stands for minus infinity: exp() of it is 0, and unlike infinity it makes no NaN where a whole row is masked.
_ABSENT = -1e30


# What a loss reads: features `video`, `subtitle`, `frame` and `caption` [B, E], and `subtitle_mask` and `caption_mask`
# [B], true where the text exists. Features that a loss does not use may be left out. A masked row may hold anything,
# NaN included: it is replaced by zeros before it meets another row.
Batch = Mapping[str, Array]


def _mean(rows: Float[Array, "n"], mask: Bool[Array, "n"]) -> Scalar:
  """Mean over the rows that exist; 0 where none does."""
  return jnp.where(mask, rows, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def _clean(x: Float[Array, "n e"], mask: Bool[Array, "n"]) -> Float[Array, "n e"]:
  """Zeros in masked rows, so that a NaN there cannot spread: 0 times NaN is NaN, in gradients as well."""
  return jnp.where(mask[:, None], x, 0.0)


def _logits(x: Float[Array, "n e"], y: Float[Array, "m e"], scale: Scalar) -> Float[Array, "n m"]:
  """Scaled similarities in full float32: accelerators round a product's inputs otherwise, and scale is up to 200."""
  return scale * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _columns(logits: Float[Array, "n n"], mask: Bool[Array, "n"]) -> Float[Array, "n n"]:
  """The logits without the masked columns."""
  return jnp.where(mask[None, :], logits, _ABSENT)


def _cross_entropy(logits: Float[Array, "n n"], mask: Bool[Array, "n"]) -> Scalar:
  """CE(X -> Y) with the diagonal as target, over the rows and columns that exist."""
  logits = _columns(logits, mask)
  return _mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits), mask)


def _contrast(x: Float[Array, "n e"], y: Float[Array, "n e"], mask: Bool[Array, "n"], scale: Scalar) -> Scalar:
  """CE(x -> y) + CE(y -> x)."""
  logits = _logits(_clean(x, mask), _clean(y, mask), scale)
  return _cross_entropy(logits, mask) + _cross_entropy(logits.T, mask)


def _video_subtitle(batch: Batch, scale: Scalar) -> Scalar:
  return _contrast(batch["video"], batch["subtitle"], batch["subtitle_mask"], scale)


def _video_caption(batch: Batch, scale: Scalar) -> Scalar:
  return _contrast(batch["video"], batch["caption"], batch["caption_mask"], scale)


def _frame_caption(batch: Batch, scale: Scalar) -> Scalar:
  return _contrast(batch["frame"], batch["caption"], batch["caption_mask"], scale)


def _video_both_texts(batch: Batch, scale: Scalar) -> Scalar:
  """V-S,C: a video has two positives, and subtitles and captions are each other's negatives.

  Video side: row i of the first is `[v_i.s_i, v_i.s_j (j != i), v_i.c_j (j != i)]`, of the second the same with
  target v_i.c_i, 2B - 1 entries each. Text side: CE(s -> v) + CE(c -> v). The sum of the four.
  """
  s_mask, c_mask = batch["subtitle_mask"], batch["caption_mask"]
  video = _clean(batch["video"], s_mask | c_mask)
  to_subtitle = _logits(video, _clean(batch["subtitle"], s_mask), scale)
  to_caption = _logits(video, _clean(batch["caption"], c_mask), scale)

  def video_side(positive, positive_mask, other, other_mask):
    own = jnp.eye(other.shape[0], dtype=bool)
    positive = _columns(positive, positive_mask)
    negatives = jnp.where(own, _ABSENT, _columns(other, other_mask))
    rows = jax.nn.logsumexp(jnp.concatenate([positive, negatives], axis=1), axis=1)
    return _mean(rows - jnp.diagonal(positive), positive_mask)

  return (
    video_side(to_subtitle, s_mask, to_caption, c_mask)
    + video_side(to_caption, c_mask, to_subtitle, s_mask)
    + _cross_entropy(to_subtitle.T, s_mask)
    + _cross_entropy(to_caption.T, c_mask)
  )


def _joint_batch(batch: Batch, scale: Scalar) -> Scalar:
  """V-S over [v; f] against [s; c], 2B x 2B."""
  visual = jnp.concatenate([batch["video"], batch["frame"]])
  text = jnp.concatenate([batch["subtitle"], batch["caption"]])
  return _contrast(visual, text, jnp.concatenate([batch["subtitle_mask"], batch["caption_mask"]]), scale)


def _video_subtitle_dual_softmax(batch: Batch, scale: Scalar) -> Scalar:
  """V-S whose logits, in each direction, are first multiplied by their softmax over the queries."""
  mask = batch["subtitle_mask"]
  logits = _logits(_clean(batch["video"], mask), _clean(batch["subtitle"], mask), scale)

  def direction(logits):
    prior = jax.nn.softmax(jnp.where(mask[:, None], logits, _ABSENT), axis=0)
    return _cross_entropy(logits * prior, mask)

  return direction(logits) + direction(logits.T)


@dataclasses.dataclass(frozen=True)
class Loss:
  """A variant: its terms are summed. `uses` names the features it reads."""

  definition: str
  terms: tuple[Callable[[Batch, Scalar], Scalar], ...]
  uses: frozenset[str]

  def __call__(self, batch: Batch, logit_scale: Scalar) -> Scalar:
    """The loss of a global batch, float32."""
    scale = jnp.exp(logit_scale)
    return sum((term(batch, scale) for term in self.terms), start=jnp.float32(0))


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
