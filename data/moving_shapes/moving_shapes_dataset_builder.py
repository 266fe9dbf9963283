"""moving_shapes: a corpus whose clips can be told apart by motion alone, made on the spot."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from clipvip_jax.utils.errors import UserError
from data.engine.builder import CorpusBuilder, CorpusConfig
from data.engine.items import Item
from data.engine.runner import cores
from data.moving_shapes import videos
from data.moving_shapes.plan import SPLITS, Plan

_DRAWING = "1.2.0"  # the builder's version when drawings changed last; new texts need no new ones
_FEW = 100  # clips that are drawn faster than processes start


@dataclasses.dataclass(eq=False, kw_only=True)
class MovingShapesConfig(CorpusConfig):
  """What is drawn. The seed fixes every byte; num_workers changes none.

  drawn_frames: of each clip, at drawn_fps a second. side: pixels, both sides. appearances, story_pairs, seen_pairs,
  renderings: see plan.Plan. validation, test, test_unseen: clips. quantiser: of H.264, 0 (lossless) to 51. num_workers:
  processes that draw; None: one a core; 0: none beside this one. Every frame is stored as it is decoded.
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

  NOT_CONTENT: ClassVar[tuple[str, ...]] = (*CorpusConfig.NOT_CONTENT, "num_workers")

  def __post_init__(self) -> None:
    self.min_frames = self.drawn_frames  # a file that has fewer was cut

  def plan(self) -> Plan:
    """Raises UserError for numbers that fit no corpus."""
    clips = {"validation": self.validation, "test": self.test, "test_unseen": self.test_unseen}
    return Plan(
      self.seed, self.appearances, self.story_pairs, self.seen_pairs, self.renderings, clips, self.drawn_frames
    )

  def format(self) -> videos.Format:
    """Raises UserError for what H.264 or JPEG cannot do."""
    for name, low, high in (
      ("drawn_frames", 2, 1000),
      ("drawn_fps", 1, 240),
      ("side", 16, 512),
      ("quantiser", 0, 51),
      ("jpeg_quality", 1, 100),
    ):
      if not low <= getattr(self, name) <= high:
        raise UserError(f"config {self.name!r}: {name} is {getattr(self, name)}, allowed are {low} to {high}")
    if self.side % 2:
      raise UserError(f"config {self.name!r}: side is {self.side}; H.264 needs an even number")
    return videos.Format(self.drawn_frames, self.drawn_fps, self.side, self.quantiser)


class Builder(CorpusBuilder):
  """Scenes are written as H.264 files, then read as any other corpus' videos.

  The files stay under DATA_DIR/moving_shapes_videos/CONFIG/SPLIT/ID.mp4. One that is there is used as it is: a build
  that was stopped goes on where it stood, and a bad file is reported by name.
  """

  # TFDS finds this path itself, but with a package that it does not ask pip for (importlib_resources).
  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.3.0")
  RELEASE_NOTES = {  # noqa: RUF012 - TFDS' own way
    "1.3.0": "Subtitles speak of something else more often; captions are worded as descriptions are.",
    "1.2.0": "Descriptions are a list, as in all corpora; records stand in the order of the plan.",
    "1.1.0": "Dark backgrounds, drawn anew for each clip and named by captions alone; twins are the same frames.",
    "1.0.0": "First release.",
  }
  BUILDER_CONFIGS = [  # noqa: RUF012
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
  GENERATES_ITSELF = True  # needs no files: a recipe may build it
  EXTRA = ("twin",)  # id of the clip of the same split that differs in motion or order alone, "" for none

  @property
  def source(self) -> epath.Path:
    """The folder of the drawn videos, made here."""
    folder = epath.Path(self.data_dir_root) / "moving_shapes_videos" / self.builder_config.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder

  def items(self, source: epath.Path) -> Iterator[Item]:
    """Draws what is not there yet. Raises UserError where `source` holds videos drawn otherwise."""
    config = self.builder_config
    assert isinstance(config, MovingShapesConfig)
    plan, form, folder = config.plan(), config.format(), pathlib.Path(source)
    videos.claim(folder, self._drawing())
    for split in SPLITS:
      clips = plan.split(split)
      videos.draw(clips, folder / split, form, _workers(config, len(clips)))
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

  def _drawing(self) -> dict[str, Any]:
    """What decides the videos' content."""
    config = self.builder_config
    assert isinstance(config, MovingShapesConfig)
    names = ("seed", "appearances", "story_pairs", "seen_pairs", "renderings")
    form = dataclasses.asdict(config.format())
    return {
      "version": _DRAWING,
      **form,
      **{name: getattr(config, name) for name in names},
      **config.plan().clips,
    }


def _workers(config: MovingShapesConfig, clips: int) -> int:
  if config.num_workers is not None:
    return config.num_workers
  if clips <= _FEW:
    return 0
  return cores()
