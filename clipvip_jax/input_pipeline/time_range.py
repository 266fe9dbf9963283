"""Pictures of a time range of a video: those that a player shows from `start` to `end`, in seconds."""

from collections.abc import Iterable, Iterator

from clipvip_jax.input_pipeline.frame_sampling import TIME_TOLERANCE
from clipvip_jax.input_pipeline.video_decoder import Picture

NO_TIMES = "start and end do not apply to images and folders of frames, which have no times"


def from_start(pictures: Iterable[Picture], start: float | None) -> Iterator[Picture]:
  """Drops pictures that are no longer displayed at `start`."""
  return (p for p in pictures if start is None or p.seconds + p.shown_for > start + TIME_TOLERANCE)


def displayed_span(picture: Picture, start: float | None, end: float | None) -> tuple[float, float]:
  """Returns when a picture begins and ends to be displayed in the clip from `start` to `end`."""
  until = picture.seconds + picture.shown_for
  return max(picture.seconds, start or picture.seconds), until if end is None else min(until, end)
