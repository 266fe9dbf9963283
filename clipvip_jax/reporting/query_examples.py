"""Which queries of a split the report shows, with the frames of their videos.

Letters: N queries, V videos of the split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from clipvip_jax.evaluation import retrieval
from clipvip_jax.evaluation.evaluator import SplitResult
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.models.clip_vip import ClipVip
from clipvip_jax.reporting import attention_maps

TOP = 5  # videos that a query shows
_STRIP = 6  # frames of each
_WATCHED = 3  # videos of which attention is drawn


def report_examples(net: ClipVip, params: Any, corpus: Corpus, result: SplitResult, config: Any) -> dict[str, Any]:
  """`examples` and `attention` of `report.write_report`; any process may call it alone.

  Args:
    net: both towers.
    params: the parameters, NumPy's or on devices, a copy on each.
    corpus: what was evaluated.
    result: of one of its splits.
    config: the whole configuration.
  """
  found = result.embeddings
  source = corpus.source(found.split)
  chosen = choose_queries(result.similarity, found.labels, config.evaluate.num_examples)
  best = dict.fromkeys(found.labels[query] for kind, query in chosen if kind == "best")
  return {
    "examples": [_example(source, result, kind, query) for kind, query in chosen],
    "attention": [
      {"split": found.split, **attention_maps.record_attention(net, params, source[video], config)}
      for video in list(best)[:_WATCHED]
    ],
  }


def choose_queries(similarity: ArrayLike, labels: ArrayLike, count: int) -> list[tuple[str, int]]:
  """[N, V], [N] -> (kind, query) of `count` queries, or of all N; about a third of each kind, and none twice.

  The best have the smallest ranks and, of equal ones, the largest margins between the right video and the best wrong
  one. The worst have the largest ranks. The typical ones are spread evenly over the rest. Of equals, the first.
  """
  ranks = retrieval.text_to_video_ranks(similarity, labels)
  count = min(count, len(ranks))
  num_best = -(-count // 3)
  num_worst = -(-(count - num_best) // 2)
  by_rank = np.lexsort((-_margins(similarity, labels), ranks))
  best = by_rank[:num_best]
  rest = np.setdiff1d(by_rank, best)
  worst = rest[np.argsort(-ranks[rest], kind="stable")][:num_worst]
  rest = np.setdiff1d(rest, worst)
  spread = np.linspace(0, len(rest) - 1, count - num_best - num_worst).astype(int)
  kinds = {"best": best, "worst": worst, "typical": rest[spread]}
  return [(kind, int(query)) for kind, queries in kinds.items() for query in queries]


def _margins(similarity: ArrayLike, labels: ArrayLike) -> Float[np.ndarray, " n"]:
  """By how much the right video of each query is closer than the best wrong one; infinity where there is no other."""
  wrong = np.array(similarity, np.float64)
  right = np.arange(len(wrong)), np.asarray(labels)
  own = wrong[right]
  wrong[right] = -np.inf
  return own - wrong.max(axis=1)


def _example(source: Sequence[dict[str, Any]], result: SplitResult, kind: str, query: int) -> dict[str, Any]:
  """A query with its TOP videos, and the right one where it is not among them."""
  found, scores = result.embeddings, result.similarity[query]
  right = found.labels[query]
  # Of equally close videos the right one comes last, as its rank is counted.
  order = np.lexsort((np.arange(len(scores)) == right, -scores)).tolist()
  rank = order.index(right) + 1
  places = [*range(1, min(TOP, len(order)) + 1), *([rank] if rank > TOP else [])]
  return {
    "split": found.split,
    "kind": kind,
    "query": found.texts[query],
    "rank": rank,
    "top": [
      {
        "place": place,
        "id": found.ids[video],
        "score": float(scores[video]),
        "right": video == right,
        "frames": _strip(source[video]["frames"]),
      }
      for place, video in ((place, order[place - 1]) for place in places)
    ],
  }


def _strip(frames: Sequence[bytes]) -> list[bytes]:
  return [bytes(frames[i]) for i in uniform_frames(len(frames), min(_STRIP, len(frames)))]
