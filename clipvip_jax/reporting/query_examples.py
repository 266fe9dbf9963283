"""Selection of the queries that the report shows, with the frames of their videos.

Letters: N queries, V videos of the split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from clipvip_jax.evaluation import retrieval
from clipvip_jax.evaluation.evaluator import SplitResult
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.models.clip_vip import ClipVip
from clipvip_jax.reporting import attention_maps
from clipvip_jax.reporting.report_inputs import Examples, Kind, QueryExample, RankedVideo

NUM_VIDEOS = 5  # of a query
_NUM_FRAMES = 6  # of a video
_NUM_ATTENTION_MAPS = 3  # videos


def report_examples(
  net: ClipVip, params: Mapping[str, Any], corpus: Corpus, result: SplitResult, config: ConfigDict
) -> Examples:
  """Selects `config.evaluate.num_examples` queries, and draws attention maps of the best ones' matching videos.

  It communicates with no other process, so one process of several may call it alone.

  Args:
    net: both towers.
    params: their parameters, in NumPy arrays or replicated on devices.
    corpus: the evaluated corpus.
    result: the result of one of its splits.
    config: the run's configuration.
  """
  embeddings = result.embeddings
  records = corpus.records(embeddings.split)
  chosen = choose_queries(result.similarity, embeddings.labels, config.evaluate.num_examples)
  best_videos = dict.fromkeys(embeddings.labels[query] for kind, query in chosen if kind == "best")
  return Examples(
    queries=[query_example(records, result, kind, query) for kind, query in chosen],
    attention=[
      attention_maps.record_attention(net, params, records[video], config, embeddings.split)
      for video in list(best_videos)[:_NUM_ATTENTION_MAPS]
    ],
  )


def choose_queries(similarity: ArrayLike, labels: ArrayLike, count: int) -> list[tuple[Kind, int]]:
  """Chooses queries of three kinds, about a third each.

  The best have the smallest ranks and, of equal ranks, the largest margins between the matching video and the best
  other one. The worst have the largest ranks. The typical ones are spread evenly over the rest. Of equals, the first
  query is chosen.

  Args:
    similarity: [N, V].
    labels: [N], the matching video of each query.
    count: number of queries; at most N are chosen.

  Returns:
    (kind, query) of each, without duplicates: the best first, then the worst.
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
  queries_by_kind: dict[Kind, np.ndarray] = {"best": best, "worst": worst, "typical": rest[spread]}
  return [(kind, int(query)) for kind, queries in queries_by_kind.items() for query in queries]


def _margins(similarity: ArrayLike, labels: ArrayLike) -> Float[np.ndarray, " n"]:
  """Returns each query's similarity to its video minus that to its best other video; infinite if there is no other."""
  others = np.array(similarity, np.float64)
  matches = np.arange(len(others)), np.asarray(labels)
  match_scores = others[matches]
  others[matches] = -np.inf
  return match_scores - others.max(axis=1)


def query_example(records: Sequence[Mapping[str, Any]], result: SplitResult, kind: Kind, query: int) -> QueryExample:
  """Returns a query with its first NUM_VIDEOS videos, and the matching one if it is not among them.

  Args:
    records: the records of the split, in the order of the similarity's columns.
    result: the result of the split.
    kind: why the query is shown.
    query: its index.
  """
  embeddings, scores = result.embeddings, result.similarity[query]
  match = embeddings.labels[query]
  # Of equally similar videos the matching one comes last, as its rank counts ties against the model.
  order = np.lexsort((np.arange(len(scores)) == match, -scores)).tolist()
  match_rank = order.index(match) + 1
  ranks = [*range(1, min(NUM_VIDEOS, len(order)) + 1), *([match_rank] if match_rank > NUM_VIDEOS else [])]
  videos = [
    RankedVideo(
      rank=rank,
      id=embeddings.ids[video],
      score=float(scores[video]),
      is_match=video == match,
      frames=_sample_frames(records[video]["frames"]),
    )
    for rank, video in ((rank, order[rank - 1]) for rank in ranks)
  ]
  return QueryExample(embeddings.split, kind, embeddings.texts[query], match_rank, videos)


def _sample_frames(frames: Sequence[bytes]) -> list[bytes]:
  return [bytes(frames[i]) for i in uniform_frames(len(frames), min(_NUM_FRAMES, len(frames)))]
