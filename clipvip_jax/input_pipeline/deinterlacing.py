"""Deinterlacing of the frames that are marked as interlaced, with FFmpeg's filter bwdif."""

import collections
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from clipvip_jax.input_pipeline import media_notes

if TYPE_CHECKING:
  from av import VideoFrame
  from av.filter import Graph


def deinterlace(frames: Iterable[tuple[float, "VideoFrame"]]) -> Iterator[tuple[float, "VideoFrame"]]:
  """Yields (seconds, frame) with interlaced frames deinterlaced, and adds the note "interlaced" if there are any.

  Progressive frames, and videos that have no others, are unchanged. The filter needs the next frame, so frames are
  yielded one later from the first interlaced frame on.
  """
  graph: Graph | None = None
  times: collections.deque[tuple[float, VideoFrame]] = collections.deque()  # of the frames in the filter
  shape = None
  for seconds, frame in frames:
    if graph is not None and shape != (frame.width, frame.height, frame.format.name):
      yield from _filtered(graph, None, times)
      graph = None
    if graph is None and frame.interlaced_frame:
      media_notes.add_note("interlaced")
      graph, shape = _filter_graph(frame), (frame.width, frame.height, frame.format.name)
    if graph is None:
      yield seconds, frame
    else:
      times.append((seconds, frame))
      yield from _filtered(graph, frame, times)
  if graph is not None:
    yield from _filtered(graph, None, times)


def _filter_graph(frame: "VideoFrame") -> "Graph":
  from av.filter import Graph

  graph = Graph()
  graph.threads = 1
  source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
  # One frame per frame (not per field), and only those marked as interlaced.
  graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")).configure()
  return graph


def _filtered(
  graph: "Graph", frame: "VideoFrame | None", times: collections.deque[tuple[float, "VideoFrame"]]
) -> Iterator[tuple[float, "VideoFrame"]]:
  """Sends a frame (None: the end) to the filter; yields the frames that it returns with the times of their sources."""
  import av

  graph.vpush(frame)
  while times:
    try:
      filtered = graph.vpull()
    except (av.error.BlockingIOError, av.error.EOFError):
      return
    seconds, source = times.popleft()
    if not source.interlaced_frame:
      filtered = source
    yield seconds, filtered
