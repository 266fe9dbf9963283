"""Warnings about annotations that are valid but probably wrong."""

from __future__ import annotations

import array
import collections

from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.text_hash import find_repeated, hash_text
from clipvip_jax.utils import storage
from clipvip_jax.utils.local_paths import real_path
from clipvip_jax.utils.log import log, printable

_TRAIN = "train"
_EMPTY_CELLS = ("nan", "none", "null")  # what table software writes for an empty cell


class AnnotationWarnings:
  """Counts clips that are repeated in a split, videos of the training split in another one, and texts such as "nan"."""

  def __init__(self) -> None:
    self._clips: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))
    self._videos: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("Q"))
    self._empty_cells: collections.Counter[str] = collections.Counter()
    self._first = ""

  def add(self, item: Item) -> None:
    """Counts an item."""
    video = item.video if storage.is_remote(item.video) else real_path(item.video, follow=False)
    self._videos[item.split].append(hash_text(f"{video}:{item.offset}"))
    self._clips[item.split].append(hash_text(f"{video}:{item.offset}:{item.start or 0}:{item.end}"))
    for text in (item.subtitle, item.caption, *item.descriptions):
      if text.lower() in _EMPTY_CELLS:
        self._first = self._first or f"{item.id!r} of split {item.split!r}"
        self._empty_cells[text] += 1

  def log(self) -> None:
    """Logs a warning for each kind that occurred."""
    import numpy as np

    if self._empty_cells:
      log.warning(
        "%d texts are %s, first that of clip %s: probably empty cells of a table; remove them from the annotations",
        *(self._empty_cells.total(), " or ".join(map(repr, sorted(self._empty_cells))), printable(self._first)),
      )
    for split, hashes in self._clips.items():
      if repeated := sum(count - 1 for count in find_repeated(hashes).values()):
        log.warning(
          "%d of %d clips of split %r have the video and the times of another one: results on it are less meaningful;"
          " give the texts of a video to one clip",
          *(repeated, len(hashes), split),
        )
    videos = {split: np.unique(np.frombuffer(hashes, np.uint64)) for split, hashes in self._videos.items()}
    train = videos.pop(_TRAIN, np.zeros(0, np.uint64))
    for split, values in videos.items():
      if shared := np.isin(values, train).sum():
        log.warning(
          "%d of %d videos of split %r are also in split %r: results on %r overestimate; remove them from one of both",
          *(shared, len(values), split, _TRAIN, split),
        )
