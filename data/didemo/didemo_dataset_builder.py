"""didemo: DiDeMo, videos of Flickr with a paragraph each."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.log import log
from data.engine.annotations import (
  Clip,
  RetrievalConfig,
  Videos,
  find_file,
  find_optional_file,
  json_pairs,
  lines_of,
  make_items,
  merge_pairs,
  stem,
)
from data.engine.builder import CorpusBuilder
from data.engine.items import Item

_OWNERS = "{}_data.json"
_FILES = (_OWNERS, "{}.jsonl", "didemo_ret_{}.json")
_LIST = "{}_list.txt"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}  # of the corpus -> in the files' names
_VIDEOS = ("videos", "DiDeMo_Videos", "didemo_videos", "video")


@dataclasses.dataclass(eq=False, kw_only=True)
class DidemoConfig(RetrievalConfig):
  """seconds: the beginning of each video that is kept, as people who described them saw 30 seconds; 0: all of it."""

  seconds: float = 0.0
  splits: tuple[str, ...] = tuple(_SPLITS)


class Builder(CorpusBuilder):
  """All sentences of a video, in the order of the file, make one paragraph.

  Annotations of a split are the owner's train_data.json, val_data.json, test_data.json, lists of {"video": NAME,
  "description": SENTENCE}; or train.jsonl or didemo_ret_train.json, as `json_pairs` reads them, and so on. The owner's
  files name more videos than are reported on; train_list.txt, val_list.txt, test_list.txt beside them, a name a line,
  say which (1,004 for testing). A video is found by its name without the extension: many were converted.
  """

  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.0.0")
  SIZE_HINT = " with test_list.txt, which names the videos that are reported on,"
  BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS' own way
    DidemoConfig(name="default", description="Whole videos at three frames a second.", fps=3, sizes={"test": 1004})
  ]

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Raises UserError for files that are absent or broken, by line or entry."""
    config = self.builder_config
    assert isinstance(config, DidemoConfig)
    videos = Videos(source, config.videos, _VIDEOS)
    paths = {name: find_file(source, *(file.format(word) for file in _FILES)) for name, word in _SPLITS.items()}
    for split, path in paths.items():
      clips = _listed(source, path, _SPLITS[split], merge_pairs(json_pairs(path)))
      yield from make_items(split, clips, videos, joined=True, end=config.seconds or None)


def _listed(source: epath.Path, path: epath.Path, word: str, clips: dict[str, Clip]) -> Iterable[Clip]:
  """The clips of an owner's file that the list of the split names; all where there is no list, or no need of one."""
  if path.name != _OWNERS.format(word):
    return clips.values()
  if (names := find_optional_file(source, _LIST.format(word))) is None:
    log.info("%s: no %s beside it, all of its %d videos are taken", path, _LIST.format(word), len(clips))
    return clips.values()
  wanted = {
    stem(line.strip()): f"{names}, line {number}" for number, line in enumerate(lines_of(names), 1) if line.strip()
  }
  # A name of which the owner's file says nothing is a clip without a text, and counted as that.
  silent = (Clip(name, where, []) for name, where in wanted.items() if name not in clips)
  return [*(clip for name, clip in clips.items() if name in wanted), *silent]
