"""Retrieval metrics in plain loops: the oracle of tests."""

import statistics

METRICS = ("R@1", "R@5", "R@10", "median_rank", "mean_rank")


def slow_text_ranks(similarity, labels):
  """Ranks of [texts][videos]; labels: the video of each text."""
  ranks = []
  for row, label in zip(similarity, labels, strict=True):
    ranks.append(1 + sum(1 for video, score in enumerate(row) if video != label and score >= row[label]))
  return ranks


def slow_video_ranks(similarity, labels):
  ranks = []
  for video in range(len(similarity[0])):
    own = [row[video] for row, label in zip(similarity, labels, strict=True) if label == video]
    others = [row[video] for row, label in zip(similarity, labels, strict=True) if label != video]
    if own:
      ranks.append(min(1 + sum(1 for other in others if other >= score) for score in own))
  return ranks


def slow_grouped_ranks(similarity, labels):
  ranks = []
  for video in sorted(set(labels)):
    closest = {
      other: max(row[video] for row, label in zip(similarity, labels, strict=True) if label == other)
      for other in set(labels)
    }
    ranks.append(1 + sum(1 for other in closest if other != video and closest[other] >= closest[video]))
  return ranks


def slow_directions(similarity, labels):
  """{direction: metrics}, as `retrieval.evaluate` returns them for one kind."""
  directions = {
    "text_to_video": slow_metrics(slow_text_ranks(similarity, labels)),
    "video_to_text": slow_metrics(slow_video_ranks(similarity, labels)),
  }
  if len(set(labels)) < len(labels):
    directions["video_to_text_grouped"] = slow_metrics(slow_grouped_ranks(similarity, labels))
  return directions


def slow_metrics(ranks):
  median = statistics.median(ranks)
  recalls = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
  return dict(zip(METRICS, [*recalls, median, 1 + sum(rank - 1 for rank in ranks) / len(ranks)], strict=True))
