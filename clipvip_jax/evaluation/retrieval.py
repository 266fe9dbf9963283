"""Text-video retrieval: ranks, recalls, dual softmax and twins, from a similarity matrix.

`similarity` is [N texts, V videos], larger is closer; `labels` [N] names each text's right video. Without
labels text i belongs to video i. Recalls are fractions from 0 to 1; only `percent` turns them into what
people read. NumPy alone: nothing here needs an accelerator, and any other model's matrix can be measured too.
"""

import numpy as np
from numpy.typing import ArrayLike

from clipvip_jax.utils.errors import UserError

RECALLS = (1, 5, 10)
DSL_TEMPERATURE = 100.0


def text_to_video_ranks(similarity: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
  """[N, V], [N] -> [N]: the rank of each text's right video among all videos, from 1.

  Pessimistic: 1 + videos strictly better + other videos that are equal, so a model that answers the same to
  everything ranks last, and each query has one rank. Raises UserError for a bad similarity or bad labels.
  """
  scores, right = _checked(similarity, labels)
  own = scores[np.arange(len(right)), right]
  return np.count_nonzero(scores >= own[:, None], axis=1)  # the right video counts itself: that is the 1


def video_to_text_ranks(similarity: ArrayLike, labels: ArrayLike | None = None) -> np.ndarray:
  """[N, V], [N] -> [videos with a caption]: the rank of each video's best caption among all texts, from 1.

  Pessimistic against other videos' captions; a video's own captions never compete with each other, all are
  right. Videos that no text names are only distractors for the texts and ask no question of their own, so
  they are left out. Raises UserError for a bad similarity or bad labels.
  """
  scores, right = _checked(similarity, labels)
  own = scores[np.arange(len(right)), right]
  best = np.full(scores.shape[1], -np.inf, scores.dtype)
  np.maximum.at(best, right, own)
  at_least = np.count_nonzero(scores >= best, axis=0)
  own_at_best = np.bincount(right[own == best[right]], minlength=len(best))
  asked = own_at_best > 0
  return (1 + at_least - own_at_best)[asked]


def rank_metrics(ranks: ArrayLike) -> dict[str, float]:
  """Ranks [Q] from 1 -> {"R@1", "R@5", "R@10": fraction of ranks within k; "median_rank", "mean_rank"}."""
  ranks = np.asarray(ranks)
  if ranks.size == 0:
    raise UserError("No ranks to summarise: the evaluation has no query.")
  recalls = {f"R@{k}": float(np.mean(ranks <= k)) for k in RECALLS}
  # As the public implementation does, whose ranks start at 0: its mean rounds to the same last digit.
  mean = float(np.mean(ranks - 1) + 1)
  return {**recalls, "median_rank": float(np.median(ranks)), "mean_rank": mean}


def rank_histogram(ranks: ArrayLike) -> dict[str, int]:
  """Ranks [Q] from 1 -> how many lie in 1, 2-5, 6-10, 11-20, 21-50, 51-100, 101-200 ..., up to the largest rank.

  The first three, whose ends are those of the recalls, are always there.
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


def text_to_video(similarity: ArrayLike, labels: ArrayLike | None = None) -> dict[str, float]:
  """[N, V], [N] -> metrics of `rank_metrics`, each text a query.

  Raises UserError as `text_to_video_ranks`.
  """
  return rank_metrics(text_to_video_ranks(similarity, labels))


def video_to_text(similarity: ArrayLike, labels: ArrayLike | None = None) -> dict[str, float]:
  """[N, V], [N] -> metrics of `rank_metrics`, each captioned video a query that its best caption answers.

  Raises UserError as `video_to_text_ranks`.
  """
  return rank_metrics(video_to_text_ranks(similarity, labels))


def dual_softmax(similarity: ArrayLike) -> np.ndarray:
  """DSL re-ranking, sim * softmax(100 sim, over texts): [N, V] -> [N, V], float64.

  From Cheng et al., 2021 (arXiv 2109.04290), at inference alone, as CLIP-ViP reports it. It sees all queries
  of the test set at once: report it beside the plain numbers, never in their place. float64 because weights
  far below a column's best would underflow to equal zeros in float32, and equal scores rank last. Raises
  UserError for a similarity that is no finite matrix.
  """
  scores = _matrix(similarity).astype(np.float64)
  prior = DSL_TEMPERATURE * (scores - scores.max(axis=0))
  np.exp(prior, out=prior)
  # Sorted, since columns that hold the same numbers in another order must have the same sum: their ties would break.
  prior /= [np.sort(column).sum() for column in prior.T]
  prior *= scores
  return prior


def evaluate(similarity: ArrayLike, labels: ArrayLike | None = None) -> dict[str, dict[str, dict[str, float]]]:
  """[N, V], [N] -> {"plain" | "dsl": {"text_to_video" | "video_to_text": metrics of `rank_metrics`}}.

  Raises UserError for a bad similarity or bad labels.
  """
  scores, right = _checked(similarity, labels)
  return {
    name: {"text_to_video": text_to_video(matrix, right), "video_to_text": video_to_text(matrix, right)}
    for name, matrix in (("plain", scores), ("dsl", dual_softmax(scores)))
  }


def twin_accuracy(
  similarity: ArrayLike, twins: ArrayLike, labels: ArrayLike | None = None
) -> dict[str, float | int | None]:
  """How often a text prefers its right video to that video's twin, a clip made to differ in one respect only.

  Args:
    similarity: [N, V].
    twins: [V], the index of each video's twin; -1 where it has none.
    labels: [N], the right video of each text; the text's own index where absent.

  Returns:
    {"accuracy": fraction of strict preferences (a tie is wrong; chance is 0.5), or None where no text's video
    has a twin; "count": texts asked}.

  Raises:
    UserError: bad similarity or labels, or twins that are no such indices.
  """
  scores, right = _checked(similarity, labels)
  twin = _indices(twins, scores.shape[1], "twins", "one per video", scores.shape[1], lowest=-1)
  own_twin = np.flatnonzero(twin == np.arange(len(twin)))
  if own_twin.size:
    raise UserError(f"twins[{own_twin[0]}] is {own_twin[0]}: a video cannot be its own twin; use -1 for none.")
  asked = np.flatnonzero(twin[right] >= 0)
  wins = scores[asked, right[asked]] > scores[asked, twin[right[asked]]]
  return {"accuracy": float(np.mean(wins)) if asked.size else None, "count": int(asked.size)}


def percent(fraction: float) -> str:
  """A recall or accuracy as papers print it: 0.5012 -> "50.1", in percent without the sign."""
  return f"{100 * fraction:.1f}"


def _checked(similarity: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
  """-> similarity [N, V] of floats, labels [N] of ints; UserError where they are not what they should be."""
  scores = _matrix(similarity)
  texts, videos = scores.shape
  if labels is not None:
    return scores, _indices(labels, texts, "labels", "one per text", videos)
  if texts != videos:
    raise UserError(
      f"The similarity has {texts} texts and {videos} videos: without labels it must be square, text i "
      "describing video i. Pass labels, the index of each text's video."
    )
  return scores, np.arange(texts)


def _matrix(similarity: ArrayLike) -> np.ndarray:
  """-> similarity [N, V] in float32 or float64; UserError where it is no finite matrix."""
  scores = np.asarray(similarity)
  if scores.ndim != 2 or scores.size == 0:
    raise UserError(f"The similarity has shape {scores.shape}: expected [texts, videos], neither empty.")
  if scores.dtype not in (np.float32, np.float64):
    try:
      scores = scores.astype(np.float64)  # bfloat16, half and integers all fit without rounding
    except (TypeError, ValueError) as error:
      raise UserError(f"The similarity holds {scores.dtype}: expected real numbers.") from error
  if not (finite := np.isfinite(scores)).all():
    text, video = np.unravel_index(np.argmin(finite), scores.shape)
    raise UserError(
      f"The similarity of text {text} and video {video} is {scores[text, video]} "
      f"({np.count_nonzero(~finite)} of {scores.size} values are not finite): look at the features of both."
    )
  return scores


def _indices(values: ArrayLike, count: int, name: str, unit: str, videos: int, lowest: int = 0) -> np.ndarray:
  """-> values [count] as ints from `lowest` to videos - 1; UserError that names the first that is not."""
  indices = np.asarray(values)
  if indices.shape != (count,):
    raise UserError(f"{name} has shape {indices.shape}: expected ({count},), {unit}.")
  if indices.dtype.kind not in "iu":
    raise UserError(f"{name} holds {indices.dtype}: expected integers, the indices of videos.")
  wrong = np.flatnonzero((indices < lowest) | (indices >= videos))
  if wrong.size:
    raise UserError(f"{name}[{wrong[0]}] is {indices[wrong[0]]}: allowed are {lowest} to {videos - 1}.")
  return indices.astype(np.int64)
