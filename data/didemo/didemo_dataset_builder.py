"""didemo: DiDeMo, Flickr videos with one paragraph each."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.annotations import (
  Clip,
  RetrievalConfig,
  VideoFinder,
  find_file,
  find_optional_file,
  make_items,
  merge_clips,
  read_json_clips,
)
from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.split_lists import listed_clips
from clipvip_jax.utils.log import log

_OWNERS_FILE = "{}_data.json"
_FILES = (_OWNERS_FILE, "{}.jsonl", "didemo_ret_{}.json")
_LIST_FILE = "{}_list.txt"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # split -> its name in file names
_VIDEO_FOLDERS = ("videos", "DiDeMo_Videos", "didemo_videos", "video")


@dataclasses.dataclass(eq=False, kw_only=True)
class DidemoConfig(RetrievalConfig):
  """Configuration of DiDeMo.

  Attributes:
    seconds: length of the kept beginning of each video (annotators saw 30 seconds); 0: the entire video.
  """

  seconds: float = 0.0
  splits: tuple[str, ...] = tuple(_SPLITS)


class Builder(CorpusBuilder):
  """All sentences of a video, in the order of the file, are joined into one paragraph.

  Annotations of a split: the original train_data.json, val_data.json, test_data.json, lists of {"video": NAME,
  "description": SENTENCE}; or train.jsonl or didemo_ret_train.json, as read by `read_json_clips`, and so on. The
  original files have more videos than results are reported on; train_list.txt, val_list.txt, test_list.txt beside them
  list the reported ones, one name per line (1,004 in test).
  Videos are found by name without the extension, since redistributions converted many of them.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  SIZE_HINT = " with test_list.txt, which lists the videos that results are reported on"
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    DidemoConfig(name="default", description="Whole videos at three frames a second.", fps=3, sizes={"test": 1004})
  ]

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Yields the clips. Raises UserError for missing or invalid annotations."""
    config = self.builder_config
    assert isinstance(config, DidemoConfig)
    videos = VideoFinder(raw_dir, config.videos, _VIDEO_FOLDERS)
    paths = {split: find_file(raw_dir, *(file.format(word) for file in _FILES)) for split, word in _SPLITS.items()}
    for split, path in paths.items():
      clips = _select_listed(raw_dir, path, _SPLITS[split], merge_clips(read_json_clips(path)))
      yield from make_items(split, clips, videos, join_texts=True, end=config.seconds or None)


def _select_listed(raw_dir: epath.Path, path: epath.Path, word: str, clips: dict[str, Clip]) -> Iterable[Clip]:
  """Returns the clips in the split's list; all clips if there is no list, or `path` is not the original file."""
  if path.name != _OWNERS_FILE.format(word):
    return clips.values()
  if (list_file := find_optional_file(raw_dir, _LIST_FILE.format(word))) is None:
    log.info("%s: no %s; using all %d videos", path, _LIST_FILE.format(word), len(clips))
    return clips.values()
  return listed_clips(list_file, clips)
