"""Text-video retrieval metrics of a similarity matrix: ranks, recalls, dual softmax and accuracy on twins.

`similarity` is [N texts, V videos], larger is closer; `labels` [N] holds the index of each text's video. Without labels
text i belongs to video i. Recalls are fractions from 0 to 1; `percent` formats them. Works on NumPy arrays of any
model.

Where videos have several captions, two protocols of video-to-text retrieval are in use. `video_to_text` ranks a video's
best caption among all captions (visual-semantic-embedding, Collaborative Experts). `video_to_text_grouped` ranks the
captions of each video as one item, with the similarity of the best of them (Portillo-Quintero et al., 2021, arXiv
2102.12443, and CLIP4Clip, from which tables of MSVD take it). With one caption per video they are equal.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from clipvip_jax.utils.errors import UserError

RECALLS = (1, 5, 10)
DSL_TEMPERATURE = 100.0


def text_to_video_ranks(similarity: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
  """Returns the rank, from 1, of each text's video among all videos: [N, V], [N] -> [N].

  Ties are pessimistic: 1 + videos strictly better + other videos that are equal. A constant similarity ranks last.

  Raises:
    UserError: invalid similarity or labels.
  """
  scores, own_video = _checked(similarity, labels)
  own = scores[np.arange(len(own_video)), own_video]
  return np.count_nonzero(scores >= own[:, None], axis=1)  # counts the text's own video, hence from 1


def video_to_text_ranks(similarity: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
  """Returns the rank, from 1, of each video's best caption among all texts: [N, V], [N] -> [videos with a caption].

  Ties with captions of other videos are pessimistic; captions of the same video do not compete. Videos without a
  caption are distractors in text-to-video retrieval only, and are skipped here.

  Raises:
    UserError: invalid similarity or labels.
  """
  scores, own_video = _checked(similarity, labels)
  own = scores[np.arange(len(own_video)), own_video]
  best = np.full(scores.shape[1], -np.inf, scores.dtype)
  np.maximum.at(best, own_video, own)
  at_least = np.count_nonzero(scores >= best, axis=0)
  own_at_best = np.bincount(own_video[own == best[own_video]], minlength=len(best))
  has_caption = own_at_best > 0
  return (1 + at_least - own_at_best)[has_caption]


def video_to_text_grouped_ranks(similarity: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
  """Returns the rank, from 1, of each video's captions among the groups of captions: [N, V], [N] -> [V with a caption].

  A group holds the captions of one video. Its similarity to a video is that of its closest caption. Ties with groups of
  other videos are pessimistic. Videos without a caption have no group, and are skipped.

  Raises:
    UserError: invalid similarity or labels.
  """
  scores, own_video = _checked(similarity, labels)
  videos, starts = np.unique(np.sort(own_video), return_index=True)
  groups = np.maximum.reduceat(scores[np.argsort(own_video, kind="stable")], starts, axis=0)[:, videos]
  return np.count_nonzero(groups >= np.diagonal(groups), axis=0)  # counts the video's own group, hence from 1


_RANKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "text_to_video": text_to_video_ranks,
  "video_to_text": video_to_text_ranks,
  "video_to_text_grouped": video_to_text_grouped_ranks,
}


def ranks_by_direction(similarity: ArrayLike, labels: ArrayLike | None = None) -> dict[str, np.ndarray]:
  """Returns {direction: ranks} of [N, V], [N]; "video_to_text_grouped" only if a video has several captions.

  Raises:
    UserError: invalid similarity or labels.
  """
  scores, own_video = _checked(similarity, labels)
  directions = dict(_RANKS)
  if len(np.unique(own_video)) == len(own_video):
    del directions["video_to_text_grouped"]
  return {name: rank(scores, own_video) for name, rank in directions.items()}


def rank_metrics(ranks: ArrayLike) -> dict[str, float]:
  """Returns {"R@1", "R@5", "R@10": fraction of ranks of at most k; "median_rank", "mean_rank"} of ranks [Q] from 1.

  Raises:
    UserError: there are no ranks, or one is below 1 or not a number.
  """
  ranks = np.asarray(ranks)
  if ranks.size == 0:
    raise UserError("the split has no query; choose another split or another field of queries")
  if not (valid := ranks >= 1).all():
    raise UserError(f"ranks contain {ranks[~valid][0]}; pass ranks from 1, which is the best")
  recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in RECALLS}
  # Ranks from 0 as in the reference implementation, for a bit-identical mean.
  mean = float(np.mean(ranks - 1) + 1)
  return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": mean}


def rank_histogram(ranks: ArrayLike) -> dict[str, int]:
  """Counts ranks [Q] in the bins 1, 2-5, 6-10, 11-20, 21-50, 51-100, 101-200 ..., up to the largest rank.

  The first three bins, which end where the recalls do, are always present.
  """
  ranks = np.asarray(ranks)
  ends = [1, 5, 10]
  while ends[-1] < ranks.max(initial=0):
    ends.append(ends[-3] * (20 if len(ends) == 3 else 10))
  starts = [1, *(end + 1 for end in ends[:-1])]
  return {
    str(end) if start == end else f"{start}-{end}": int(np.count_nonzero((ranks >= start) & (ranks <= end)))
    for start, end in zip(starts, ends, strict=True)
  }


def dual_softmax(similarity: ArrayLike) -> np.ndarray:
  """Re-ranks with dual softmax (DSL), sim * softmax(100 sim, over texts): [N, V] -> [N, V], float64.

  From Cheng et al., 2021 (arXiv 2109.04290), applied at inference only, as CLIP-ViP reports it. It uses all queries of
  the test set at once: report it in addition to the plain metrics, never instead. float64, since in float32 weights far
  below the largest of a column underflow to ties.

  Raises:
    UserError: the similarity is not a finite matrix.
  """
  scores = _matrix(similarity).astype(np.float64)
  prior = DSL_TEMPERATURE * (scores - scores.max(axis=0))
  np.exp(prior, out=prior)
  # Sorted, so that columns with the same numbers in another order have bit-identical sums and tie.
  prior /= [np.sort(column).sum() for column in prior.T]
  prior *= scores
  return prior


def evaluate(similarity: ArrayLike, labels: ArrayLike | None = None) -> dict[str, dict[str, dict[str, float]]]:
  """Returns {"plain" | "dsl": {direction: `rank_metrics`}} of [N, V], [N]; see `ranks_by_direction`.

  Raises:
    UserError: invalid similarity or labels.
  """
  scores, own_video = _checked(similarity, labels)
  return {
    name: {direction: rank_metrics(ranks) for direction, ranks in ranks_by_direction(matrix, own_video).items()}
    for name, matrix in (("plain", scores), ("dsl", dual_softmax(scores)))
  }


def twin_accuracy(
  similarity: ArrayLike, twins: ArrayLike, labels: ArrayLike | None = None
) -> dict[str, float | int | None]:
  """Measures how often a text is closer to its video than to the twin of that video.

  Twins are temporal hard negatives: clips that differ in motion or order only.

  Args:
    similarity: [N, V].
    twins: [V], the index of each video's twin; -1 for none.
    labels: [N], the video of each text; None: the text's own index.

  Returns:
    {"accuracy": fraction of texts strictly closer to their video (a tie is wrong; chance is 0.5), or None if no text's
    video has a twin; "count": texts whose video has a twin}.

  Raises:
    UserError: invalid similarity, labels or twins.
  """
  scores, own_video = _checked(similarity, labels)
  twin = _indices(twins, scores.shape[1], "twins", "one per video", scores.shape[1], lowest=-1)
  own_twin = np.flatnonzero(twin == np.arange(len(twin)))
  if own_twin.size:
    raise UserError(f"twins[{own_twin[0]}] is {own_twin[0]}: a video cannot be its own twin; use -1 for none")
  texts = np.flatnonzero(twin[own_video] >= 0)
  wins = scores[texts, own_video[texts]] > scores[texts, twin[own_video[texts]]]
  return {"accuracy": float(np.mean(wins)) if texts.size else None, "count": int(texts.size)}


def percent(fraction: float) -> str:
  """Formats a recall or accuracy in percent without the sign: 0.5012 -> "50.1"."""
  return f"{100 * fraction:.1f}"


def _checked(similarity: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
  """Returns similarity [N, V] as floats and labels [N] as ints; raises UserError if either is invalid."""
  scores = _matrix(similarity)
  texts, videos = scores.shape
  if labels is not None:
    return scores, _indices(labels, texts, "labels", "one per text", videos)
  if texts != videos:
    raise UserError(
      f"the similarity has {texts} texts and {videos} videos: without labels it must be square, with text i"
      " describing video i; pass labels, the index of each text's video"
    )
  return scores, np.arange(texts)


def _matrix(similarity: ArrayLike) -> np.ndarray:
  """Returns similarity [N, V] as float32 or float64; raises UserError if it is not a finite matrix."""
  scores = _array(similarity, "the similarity")
  if scores.ndim != 2 or scores.size == 0:
    raise UserError(f"the similarity has shape {scores.shape}; expected [texts, videos], both at least 1")
  if scores.dtype not in (np.float32, np.float64):
    try:
      if scores.dtype.kind in "cSUMm":  # NumPy drops imaginary parts, parses texts and counts days
        raise TypeError
      scores = scores.astype(np.float64)  # exact for bfloat16, half precision and integers
    except (TypeError, ValueError) as error:
      raise UserError(f"the similarity has dtype {scores.dtype}; expected real numbers") from error
  if not (finite := np.isfinite(scores)).all():
    text, video = np.unravel_index(np.argmin(finite), scores.shape)
    raise UserError(
      f"the similarity of text {text} and video {video} is {scores[text, video]}"
      f" ({np.count_nonzero(~finite)} of {scores.size} values are not finite); check the features of both for NaN"
    )
  return scores


def _array(values: ArrayLike, name: str) -> np.ndarray:
  """Returns an array; raises UserError for rows of different lengths and for masked values, which NumPy would use."""
  if np.ma.is_masked(values):
    raise UserError(f"{name} has masked values; leave out these texts and videos, and pass an array without a mask")
  try:
    return np.asarray(values)
  except ValueError as error:
    raise UserError(f"{name} is not an array ({error}); pass rows of equal length") from error


def _indices(values: ArrayLike, count: int, name: str, unit: str, videos: int, lowest: int = 0) -> np.ndarray:
  """Returns values [count] as ints from `lowest` to videos - 1; raises UserError that names the first invalid one."""
  indices = _array(values, name)
  if indices.shape != (count,):
    raise UserError(f"{name} has shape {indices.shape}; expected ({count},), {unit}")
  if indices.dtype.kind not in "iu":
    raise UserError(f"{name} has dtype {indices.dtype}; expected integers, the indices of videos")
  wrong = np.flatnonzero((indices < lowest) | (indices >= videos))
  if wrong.size:
    raise UserError(f"{name}[{wrong[0]}] is {indices[wrong[0]]}; allowed are {lowest} to {videos - 1}")
  return indices.astype(np.int64)
