"""Which clips there are: descriptions seen and unseen in training, splits, twins, and every clip's text."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipvip_jax.utils.errors import UserError
from data.moving_shapes import language, scenes

SPLITS = ("train", "validation", "test", "test_unseen")  # a split's place here seeds its clips: append only
_PLAN = 1000  # stands where a split stands in the seeds of clips
_SCENE, _TEXT = 0, 1  # what a clip's generators are for; apart, so that a new phrase moves no pixel


Twins = tuple[scenes.Appearance, scenes.Pair]


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip to be made. key: what np.random.default_rng of its pixels is given. twin: an id or ""."""

  id: str
  appearance: scenes.Appearance
  story: scenes.Story
  key: tuple[int, ...]
  subtitle: str
  caption: str
  description: str
  twin: str


@dataclasses.dataclass(frozen=True)
class Plan:
  """Numbers that fix the corpus; everything follows from them.

  appearances, half of them of one object and half of two, each meet `story_pairs` twin pairs of stories, of which
  `seen_pairs` are trained on, `renderings` times each direction. clips: of each split but train, twins in pairs.
  frames: of a clip.
  """

  seed: int
  appearances: int
  story_pairs: int
  seen_pairs: int
  renderings: int
  clips: dict[str, int]
  frames: int = 20

  def __post_init__(self):
    most = min(len(scenes.ONE_THING), len(scenes.TWO_THINGS))
    if not 1 <= self.seen_pairs < self.story_pairs <= most:
      raise UserError(f"seen_pairs {self.seen_pairs}, story_pairs {self.story_pairs}: needs 1 <= seen < all <= {most}")
    most_seen, most_unseen = (2 * self.appearances * n for n in (self.seen_pairs, self.story_pairs - self.seen_pairs))
    for split, count in self.clips.items():
      most = most_unseen if split == "test_unseen" else most_seen
      if count % 2 or not 2 <= count <= most:
        raise UserError(f"split {split!r} of {count} clips: an even number from 2 to {most} is possible")

  def pairs(self) -> tuple[list[Twins], list[Twins]]:
    """(appearance, twin stories) seen in training, and not; shuffled.

    Every appearance is seen with `seen_pairs` of the stories, and every story with as large a share of appearances.
    """
    rng = np.random.default_rng((self.seed, _PLAN))
    seen: list[Twins] = []
    unseen: list[Twins] = []
    order = rng.permutation(self.story_pairs)
    for index, appearance in enumerate(scenes.appearances(self.appearances, rng)):
      of_kind = index // 2  # kinds alternate
      stories = scenes.ONE_THING if len(appearance.things) == 1 else scenes.TWO_THINGS
      for k in range(self.story_pairs):
        # A window that moves on by one from appearance to appearance meets each story equally often.
        chosen = stories[order[(of_kind + k) % self.story_pairs]]
        (seen if k < self.seen_pairs else unseen).append((appearance, chosen))
    return [seen[k] for k in rng.permutation(len(seen))], [unseen[k] for k in rng.permutation(len(unseen))]

  def split(self, name: str) -> list[Clip]:
    """The clips of a split in order; outside of train, twins stand side by side.

    validation and test take their pairs from opposite ends of the same list: no description is in both, where
    there are enough.
    """
    seen, unseen = self.pairs()
    chosen = {
      "train": seen * self.renderings,
      "validation": seen[: self.clips["validation"] // 2],
      "test": seen[len(seen) - self.clips["test"] // 2 :],
      "test_unseen": unseen[: self.clips["test_unseen"] // 2],
    }[name]
    others = [(appearance, story) for appearance, pair in seen for story in pair]
    told = [(appearance, story) for appearance, pair in chosen for story in pair]
    return [self._clip(name, number, *both, others) for number, both in enumerate(told)]

  def _clip(
    self,
    split: str,
    number: int,
    appearance: scenes.Appearance,
    story: scenes.Story,
    others: list[tuple[scenes.Appearance, scenes.Story]],
  ) -> Clip:
    # Twins are drawn from the same numbers, so that they are the same frames in another order.
    drawn = number if split == "train" else number - number % 2
    place = SPLITS.index(split)
    key, rng = (self.seed, place, drawn, _SCENE), np.random.default_rng((self.seed, place, number, _TEXT))
    return Clip(
      id=f"{split}_{number:05d}",
      appearance=appearance,
      story=story,
      key=key,
      subtitle=language.subtitle(appearance, story, others, rng),
      caption=language.caption(appearance, story, self._scene(appearance, story, key), rng),
      description=language.description(appearance, story),
      twin="" if split == "train" else f"{split}_{number ^ 1:05d}",
    )

  def _scene(self, appearance: scenes.Appearance, story: scenes.Story, key: tuple[int, ...]) -> scenes.Scene:
    return scenes.stage(appearance, story, self.frames, np.random.default_rng(key))
