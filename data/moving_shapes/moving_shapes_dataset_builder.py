"""moving_shapes: a synthetic corpus whose clips differ by motion alone."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.data.engine.builder import CorpusBuilder
from clipvip_jax.data.engine.corpus_config import CorpusConfig
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.runner import available_cores
from clipvip_jax.data.moving_shapes import videos
from clipvip_jax.data.moving_shapes.plan import SPLITS, Plan
from clipvip_jax.utils.errors import UserError

_DRAWING = "1.2.0"  # version of the builder that last changed the videos; texts do not affect them
_MIN_PARALLEL_CLIPS = 100  # fewer clips are drawn faster than processes start


@dataclasses.dataclass(eq=False, kw_only=True)
class MovingShapesConfig(CorpusConfig):
  """Configuration of the corpus. Every byte is a function of the seed and the other fields, except num_workers.

  Attributes:
    seed: seed of all random draws.
    drawn_frames: frames of each video; all of them are stored.
    drawn_fps: frames per second of each video.
    side: height and width in pixels.
    quantiser: quantiser of H.264, 0 (lossless) to 51.
    appearances, story_pairs, seen_pairs, renderings: see `plan.Plan`.
    validation, test, test_unseen: number of clips of these splits.
    num_workers: processes that draw; None: one per core; 0: only this process.
  """

  splits: tuple[str, ...] = SPLITS
  seed: int = 0
  drawn_frames: int = 20
  drawn_fps: int = 12
  side: int = 64
  quantiser: int = 18
  appearances: int = 32
  story_pairs: int = 12
  seen_pairs: int = 8
  renderings: int = 12
  validation: int = 256
  test: int = 256
  test_unseen: int = 256
  short_side: int = 0
  num_workers: int | None = None

  NON_CONTENT_FIELDS: ClassVar[tuple[str, ...]] = (*CorpusConfig.NON_CONTENT_FIELDS, "num_workers")

  def __post_init__(self) -> None:
    self.min_frames = self.drawn_frames  # a file with fewer is truncated

  def plan(self) -> Plan:
    """Returns the plan of the clips. Raises UserError for a value out of range."""
    clips = {"validation": self.validation, "test": self.test, "test_unseen": self.test_unseen}
    return Plan(
      self.seed, self.appearances, self.story_pairs, self.seen_pairs, self.renderings, clips, self.drawn_frames
    )

  def video_format(self) -> videos.VideoFormat:
    """Returns the format of the videos. Raises UserError for a value out of range."""
    for name, low, high in (
      ("drawn_frames", 2, 1000),
      ("drawn_fps", 1, 240),
      ("side", 16, 512),
      ("quantiser", 0, 51),
      ("jpeg_quality", 1, 100),
    ):
      if not low <= getattr(self, name) <= high:
        raise UserError(f"config {self.name!r}: {name}={getattr(self, name)} is out of range; use {low} to {high}")
    if self.side % 2:
      raise UserError(f"config {self.name!r}: side={self.side} is odd; H.264 needs an even number")
    return videos.VideoFormat(self.drawn_frames, self.drawn_fps, self.side, self.quantiser)


class Builder(CorpusBuilder):
  """Draws scenes to H.264 files, and then reads these like the videos of any corpus.

  The files are kept at DATA_DIR/moving_shapes_videos/CONFIG/SPLIT/ID.mp4. Drawing is resumable: existing files are not
  drawn again, and a corrupt one is skipped and reported by name.
  """

  # TFDS finds this path only with importlib_resources, which it does not require.
  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.3.0")
  RELEASE_NOTES = {  # noqa: RUF012 - as in TFDS
    "1.3.0": "Subtitles speak of something else more often; captions are worded as descriptions are.",
    "1.2.0": "Descriptions are a list, as in all corpora; records stand in the order of the plan.",
    "1.1.0": "Dark backgrounds, drawn anew for each clip and named by captions alone; twins are the same frames.",
    "1.0.0": "First release.",
  }
  BUILDER_CONFIGS = [  # noqa: RUF012 - as in TFDS
    MovingShapesConfig(name="demo", description="Enough to learn motion from in minutes on a CPU."),
    MovingShapesConfig(
      name="smoke",
      description="A few clips of everything, to see that a recipe runs.",
      appearances=8,
      story_pairs=4,
      seen_pairs=2,
      renderings=2,
      validation=32,
      test=32,
      test_unseen=32,
    ),
  ]
  SYNTHETIC = True  # needs no raw files: a training run may build it
  EXTRA_FIELDS = ("twin",)  # id of the clip of the same split that differs only in motion or order; "" if none

  @property
  def raw_dir(self) -> epath.Path:
    """The folder of the drawn videos, created if absent."""
    folder = epath.Path(self.data_dir_root) / "moving_shapes_videos" / self.builder_config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder

  def items(self, raw_dir: epath.Path) -> Iterator[Item]:
    """Draws missing videos, then yields the clips. Raises UserError if `raw_dir` has videos of other settings."""
    config = self.builder_config
    assert isinstance(config, MovingShapesConfig)
    plan, video_format, folder = config.plan(), config.video_format(), pathlib.Path(raw_dir)
    videos.check_settings(folder, self._video_settings())
    for split in SPLITS:
      clips = plan.split(split)
      videos.draw(clips, folder / split, video_format, _num_workers(config, len(clips)))
      for clip in clips:
        yield Item(
          id=clip.id,
          split=split,
          video=os.fspath(folder / split / f"{clip.id}.mp4"),
          descriptions=(clip.description,),
          subtitle=clip.subtitle,
          caption=clip.caption,
          extra={"twin": clip.twin},
        )

  def _video_settings(self) -> dict[str, Any]:
    """Returns all settings that determine the videos."""
    config = self.builder_config
    assert isinstance(config, MovingShapesConfig)
    names = ("seed", "appearances", "story_pairs", "seen_pairs", "renderings")
    return {
      "version": _DRAWING,
      **dataclasses.asdict(config.video_format()),
      **{name: getattr(config, name) for name in names},
      **config.plan().clips,
    }


def _num_workers(config: MovingShapesConfig, num_clips: int) -> int:
  if config.num_workers is not None:
    return config.num_workers
  return 0 if num_clips <= _MIN_PARALLEL_CLIPS else available_cores()
