"""moving_shapes: a corpus whose clips can be told apart by motion alone, made on the spot."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from clipvip_jax.errors import UserError
from data import records
from data.moving_shapes import videos
from data.moving_shapes.plan import SPLITS, Plan


@dataclasses.dataclass(eq=False, kw_only=True)
class MovingShapesConfig(tfds.core.BuilderConfig):
  """What is built. The seed fixes every byte; num_workers changes none.

  frames: of each clip, at fps a second. short_side: pixels. appearances, story_pairs, seen_pairs, renderings: see
  plan.Plan. validation, test, test_unseen: clips. quantiser: of H.264, 0 (lossless) to 51. max_bad_share: share of bad
  clips in a split that stops the build. num_workers: processes; None: one a core; 0: none beside this one.
  """

  seed: int = 0
  frames: int = 20
  fps: int = 12
  short_side: int = 64
  quantiser: int = 18
  jpeg_quality: int = 92
  appearances: int = 32
  story_pairs: int = 12
  seen_pairs: int = 8
  renderings: int = 12
  validation: int = 256
  test: int = 256
  test_unseen: int = 256
  max_bad_share: float = 0.05
  num_workers: int | None = None

  def plan(self) -> Plan:
    """Raises UserError for numbers that fit no corpus."""
    clips = {"validation": self.validation, "test": self.test, "test_unseen": self.test_unseen}
    return Plan(self.seed, self.appearances, self.story_pairs, self.seen_pairs, self.renderings, clips, self.frames)

  def format(self) -> videos.Format:
    """Raises UserError for what H.264 or JPEG cannot do."""
    for name, low, high in (
      ("frames", 2, 1000),
      ("fps", 1, 240),
      ("short_side", 16, 512),
      ("quantiser", 0, 51),
      ("jpeg_quality", 1, 100),
    ):
      if not low <= getattr(self, name) <= high:
        raise UserError(f"config {self.name!r}: {name} is {getattr(self, name)}, allowed are {low} to {high}")
    if self.short_side % 2:
      raise UserError(f"config {self.name!r}: short_side is {self.short_side}; H.264 needs an even number")
    return videos.Format(self.frames, self.fps, self.short_side, self.quantiser, self.jpeg_quality)


class Builder(tfds.core.GeneratorBasedBuilder):
  """Scenes are written as H.264 files, read back with the project's decoder, and stored as records.

  The files stay under DATA_DIR/moving_shapes_videos/CONFIG/SPLIT/ID.mp4. One that is there is used as it is: a build
  that was stopped goes on where it stood, and a bad file is reported by name.
  """

  # TFDS finds this path itself, but with a package that it does not ask pip for (importlib_resources).
  code_path = pathlib.Path(__file__)
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {  # noqa: RUF012 - TFDS' own way
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
      num_workers=0,
    ),
  ]

  def __init__(self, **kwargs: Any):
    """Takes what TFDS builders take. Raises UserError where other records stand under this config's name."""
    super().__init__(**kwargs)
    stored = self.info.metadata["settings"]  # read from disk where the records exist
    wanted = _settings(self.builder_config)
    if stored != wanted:
      changed = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
      raise UserError(
        f"{self.data_path}: these records were built with other settings ({', '.join(changed)})."
        " Delete this folder, or build under another config name or data_dir."
      )

  def _info(self) -> tfds.core.DatasetInfo:
    config = self.builder_config
    return self.dataset_info_from_configs(
      features=records.record_features(),
      metadata=tfds.core.MetadataDict(
        pixels=(
          f"{config.frames} frames at {config.fps} fps, drawn at {config.short_side} x {config.short_side};"
          f" H.264 (x264, yuv420p, constant quantiser {config.quantiser}, every frame by itself);"
          f" decoded by FFmpeg to RGB, not resized; JPEG of quality {config.jpeg_quality}, 4:2:0"
        ),
        settings=_settings(config),
      ),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
    config = self.builder_config
    plan, form = config.plan(), config.format()
    videos.claim(self._videos, _settings(config))
    coverage = records.Coverage(config.max_bad_share)
    return {split: self._generate_examples(split, plan, form, coverage) for split in SPLITS}

  def _generate_examples(
    self, split: str, plan: Plan, form: videos.Format, coverage: records.Coverage
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    clips = plan.split(split)
    coverage.expect(split, len(clips))
    for chunk in videos.store(clips, self._videos / split, form, self._workers):
      good = {stored.clip.id for stored in chunk if not stored.reason}
      for stored in chunk:
        if stored.reason:
          coverage.bad(split, f"{self._videos / split / stored.clip.id}.mp4", stored.reason)
        else:
          coverage.found(split)
          yield stored.clip.id, _record(stored, good)
    coverage.check(split, self._videos)
    coverage.write(self.data_path)
    self.info.metadata["coverage"] = coverage.as_metadata()

  @property
  def _videos(self) -> pathlib.Path:
    return pathlib.Path(self.data_dir_root) / "moving_shapes_videos" / self.builder_config.name

  @property
  def _workers(self) -> int:
    asked = self.builder_config.num_workers
    if asked is not None:
      return asked
    # The cores that this process may use, where the system can say so.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _record(stored: videos.Stored, good: set[str]) -> dict[str, Any]:
  clip = stored.clip
  return {
    "id": clip.id,
    "frames": stored.frames,
    "num_frames": len(stored.frames),
    "subtitle": clip.subtitle,
    "caption": clip.caption,
    "description": clip.description,
    "twin": clip.twin if clip.twin in good else "",  # a twin whose file is bad is no twin
  }


def _settings(config: MovingShapesConfig) -> dict[str, Any]:
  """What decides the videos' content."""
  return {
    "seed": config.seed,
    "version": str(Builder.VERSION),
    **dataclasses.asdict(config.format()),
    **{name: getattr(config, name) for name in ("appearances", "story_pairs", "seen_pairs", "renderings")},
    **config.plan().clips,
  }
