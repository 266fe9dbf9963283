"""activitynet_captions: ActivityNet Captions, videos of two minutes with a paragraph each."""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from data.engine.annotations import Clip, RetrievalConfig, Videos, find_file, json_pairs, make_items, merge_pairs
from data.engine.builder import CorpusBuilder
from data.engine.items import Item

_FILES = {
  "train": ("train.json", "train.jsonl", "anet_ret_train.json"),
  "validation": ("val_1.json", "val1.jsonl", "anet_ret_val_1.json"),
}
_VIDEOS = ("videos", "Activity_Videos", "video_frames", "video_frames_lr", "frames")
_PREFIX = "v_"  # of names in the annotations; files are named with or without it


class Builder(CorpusBuilder):
  """All sentences of a video make one paragraph. Results are reported on validation, which is the owner's val_1.

  Annotations are the owner's train.json and val_1.json, {"v_ID": {"duration", "timestamps", "sentences"}}; or
  train.jsonl and val1.jsonl, or anet_ret_train.json and anet_ret_val_1.json, as `json_pairs` reads them. A video is a
  file v_ID.mp4 or ID.mp4, or another extension, or a folder of frames v_ID/v_ID_000.jpg, of which all are stored.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    RetrievalConfig(
      name="default",
      description="One frame a second of videos, all of folders of frames.",
      fps=1,
      splits=tuple(_FILES),
      sizes={"validation": 4917},
    )
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for files that are absent or broken, by line or entry."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos = Videos(source, config.videos, _VIDEOS)
    paths = {split: find_file(source, *names) for split, names in _FILES.items()}
    for split, path in paths.items():
      yield from make_items(split, merge_pairs(json_pairs(path)).values(), videos, _places, joined=True)


def _places(clip: Clip) -> Iterable[str]:
  """With and without v_ before the name."""
  bare = clip.id.removeprefix(_PREFIX)
  return dict.fromkeys((clip.name, posixpath.basename(clip.name), _PREFIX + bare, bare))
