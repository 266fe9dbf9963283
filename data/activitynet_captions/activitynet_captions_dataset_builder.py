"""activitynet_captions: ActivityNet Captions, two-minute videos with one paragraph each."""

from __future__ import annotations

import pathlib
import posixpath
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.annotations import (
  Clip,
  RetrievalConfig,
  VideoFinder,
  find_file,
  make_items,
  merge_clips,
  read_json_clips,
)
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item

_FILES = {
  "train": ("train.json", "train.jsonl", "anet_ret_train.json"),
  "validation": ("val_1.json", "val1.jsonl", "anet_ret_val_1.json"),
}
_VIDEO_FOLDERS = ("videos", "Activity_Videos", "video_frames", "video_frames_lr", "frames")
_PREFIX = "v_"  # of names in the annotations; names of files have or lack it


class Builder(CorpusBuilder):
  """All sentences of a video are joined into one paragraph. Results are reported on validation, the original val_1.

  Annotations: the original train.json and val_1.json, {"v_ID": {"duration", "timestamps", "sentences"}}; or train.jsonl
  and val1.jsonl, or anet_ret_train.json and anet_ret_val_1.json, as read by `read_json_clips`.
  Videos: v_ID.mp4 or ID.mp4, or another extension; or a folder of frames v_ID/v_ID_000.jpg, all of which are stored.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    RetrievalConfig(
      name="default",
      description="One frame a second of videos, all of folders of frames.",
      fps=1,
      splits=tuple(_FILES),
      sizes={"validation": 4917},
    )
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, RetrievalConfig)
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS)
    paths = {split: find_file(raw_dir, *names) for split, names in _FILES.items()}
    for split, path in paths.items():
      clips = merge_clips(read_json_clips(path)).values()
      yield from make_items(split, clips, videos, _video_names, join_texts=True)


def _video_names(clip: Clip) -> Iterable[str]:
  """Returns the name as in the annotations, and with and without `v_`."""
  bare = clip.id.removeprefix(_PREFIX)
  return dict.fromkeys((clip.name, posixpath.basename(clip.name), _PREFIX + bare, bare))
