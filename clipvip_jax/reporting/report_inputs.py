"""Types of the report's examples: queries with their ranked videos, and attention maps of videos."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

Kind = Literal["best", "worst", "typical"]


@dataclasses.dataclass(frozen=True)
class RankedVideo:
  """A video in the ranking of a query.

  Attributes:
    rank: from 1.
    id: id of its record.
    score: cosine similarity to the query.
    is_match: whether the query describes it.
    frames: JPEG bytes.
  """

  rank: int
  id: str
  score: float
  is_match: bool
  frames: Sequence[bytes]


@dataclasses.dataclass(frozen=True)
class QueryExample:
  """A query and its ranking.

  Attributes:
    split: the split that is searched.
    kind: why it is shown.
    query: the text.
    rank: rank of the matching video, from 1.
    videos: the first of the ranking, and the matching video if it is not among them.
  """

  split: str
  kind: Kind
  query: str
  rank: int
  videos: Sequence[RankedVideo]


@dataclasses.dataclass(frozen=True)
class FrameAttention:
  """Attention of a proxy in one frame: its share of all the proxy's attention, 0 to 1, and the map as JPEG bytes."""

  share: float
  jpeg: bytes


@dataclasses.dataclass(frozen=True)
class ProxyAttention:
  """Attention of a proxy: the share that falls on patches, 0 to 1, and a map of each frame that is shown."""

  name: str
  share: float
  frames: Sequence[FrameAttention]


@dataclasses.dataclass(frozen=True)
class VideoAttention:
  """Attention of all proxies in a video.

  Attributes:
    split: split of the video.
    id: id of its record.
    num_frames: frames that the model sees.
    frame_indices: those of them that are shown, from 0.
    frames: the frames that are shown, as JPEG bytes.
    proxies: the proxies, class token first.
  """

  split: str
  id: str
  num_frames: int
  frame_indices: Sequence[int]
  frames: Sequence[bytes]
  proxies: Sequence[ProxyAttention]


@dataclasses.dataclass(frozen=True)
class Examples:
  """Everything in the report besides numbers, in the order in which it is shown."""

  queries: Sequence[QueryExample] = ()
  attention: Sequence[VideoAttention] = ()
