"""Embeds clips, which are videos or parts of them, in several temporal views.

Letters: K views, T frames per view, S image side in pixels, E embedding size.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from clipvip_jax.inference.index_builder import VideoEmbedder
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.frame_sampling import MAX_FRAMES
from clipvip_jax.utils.errors import UserError


class ViewEmbedder:
  """Embeds clips by their names, in K views: a `VideoEmbedder` for `build_index`.

  K * T frames, evenly spaced in time, are read; view k consists of those from k * T on. The feature of a clip is the
  mean of the unit features of its views, of unit length again. One view gives what the model itself does.

  Attributes:
    source, config, identity: those of the model; with several views, `identity` names their number.
  """

  def __init__(self, model: VideoEmbedder, clips: Iterable[VideoClip], views: int = 1):
    """Raises UserError if K * T is not between 1 and `MAX_FRAMES`."""
    num_frames = model.config.data.num_frames
    if not 1 <= views <= MAX_FRAMES // num_frames:
      raise UserError(f"--views={views} must be 1 to {MAX_FRAMES // num_frames}, with {num_frames} frames each")
    self.source, self.config = model.source, model.config
    self.identity = model.identity if views == 1 else f"{model.identity}, {views} views"
    self._model, self._views = model, views
    self._clips = {clip.name: clip for clip in clips}

  @property
  def names(self) -> list[str]:
    """Names of the clips, which `build_index` takes as videos."""
    return list(self._clips)

  @property
  def paths(self) -> list[str]:
    """Paths of the videos of `names`: `IndexLayout.paths`."""
    return [clip.path for clip in self._clips.values()]

  def read_clip(self, video: str | os.PathLike[str]) -> Float[np.ndarray, "k t s s 3"]:
    """Reads the normalised pixels of all views of a clip.

    Args:
      video: name of a clip.

    Raises:
      UserError: see `read_media.read_clip`.
    """
    clip, data, size = self._clips[os.fspath(video)], self.config.data, self.config.model.image_size
    frames = read_media.read_clip(
      clip.path, self._views * data.num_frames, size, data.crop, times=(clip.start, clip.end)
    )
    return frames.reshape(self._views, data.num_frames, *frames.shape[1:])

  def embed_pixels(self, clips: Iterable[Float[np.ndarray, "k t s s 3"]]) -> Iterator[Float[np.ndarray, " e"]]:
    """Yields the feature of each clip."""
    rows = self._model.embed_pixels(itertools.chain.from_iterable(clips))
    while views := list(itertools.islice(rows, self._views)):
      yield mean_direction(views)


def mean_direction(features: Sequence[Float[np.ndarray, " e"]]) -> Float[np.ndarray, " e"]:
  """Returns the mean of unit features, of unit length; a single feature unchanged."""
  if len(features) == 1:
    return features[0]
  mean = np.mean(features, axis=0)
  return mean / np.linalg.norm(mean)
