"""The clips of moving_shapes: splits, twins, descriptions seen and unseen in training, and all texts."""

from __future__ import annotations

import dataclasses

import numpy as np

from clipvip_jax.data.moving_shapes import language, scenes
from clipvip_jax.utils.errors import UserError

SPLITS = ("train", "validation", "test", "test_unseen")  # the index of a split seeds its clips: append only
_PLAN = 1000  # takes the place of a split's index in the seed of the plan
_SCENE, _TEXT = 0, 1  # separate generators of a clip, so that changes of texts do not change pixels

Twins = tuple[scenes.Appearance, scenes.Pair]


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip.

  Attributes:
    id: unique within the split.
    appearance: its objects.
    story: their motion.
    key: seed of np.random.default_rng for its pixels.
    subtitle, caption, description: its texts.
    twin: id of its twin; "" if none.
  """

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
  """Parameters that determine all clips.

  Attributes:
    seed: seed of all random draws.
    appearances: number of appearances, half with one object and half with two.
    story_pairs: number of twin pairs of stories of each appearance.
    seen_pairs: number of these that are in the training split.
    renderings: number of clips of each description in the training split.
    clips: number of clips of each other split, even.
    frames: number of frames of a clip.
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
      raise UserError(
        f"seen_pairs={self.seen_pairs}, story_pairs={self.story_pairs} are out of range; use"
        f" 1 <= seen_pairs < story_pairs <= {most}"
      )
    most_seen, most_unseen = (2 * self.appearances * n for n in (self.seen_pairs, self.story_pairs - self.seen_pairs))
    for split, count in self.clips.items():
      most = most_unseen if split == "test_unseen" else most_seen
      if count % 2 or not 2 <= count <= most:
        raise UserError(f"{split}={count} clips is out of range; use an even number from 2 to {most}")

  def pairs(self) -> tuple[list[Twins], list[Twins]]:
    """Returns the shuffled (appearance, twin stories) that are in the training split, and those that are not.

    Each appearance is seen with `seen_pairs` of the stories, and each story with the same fraction of appearances.
    """
    rng = np.random.default_rng((self.seed, _PLAN))
    seen: list[Twins] = []
    unseen: list[Twins] = []
    order = rng.permutation(self.story_pairs)
    for index, appearance in enumerate(scenes.appearances(self.appearances, rng)):
      offset = index // 2  # appearances of one and of two objects alternate
      stories = scenes.ONE_THING if len(appearance.things) == 1 else scenes.TWO_THINGS
      for k in range(self.story_pairs):
        # A window that is shifted by one for each appearance covers all stories equally often.
        pair = stories[order[(offset + k) % self.story_pairs]]
        (seen if k < self.seen_pairs else unseen).append((appearance, pair))
    return [seen[k] for k in rng.permutation(len(seen))], [unseen[k] for k in rng.permutation(len(unseen))]

  def split(self, name: str) -> list[Clip]:
    """Returns the clips of a split in order; outside of train, twins are adjacent.

    validation and test take pairs from opposite ends of the same list, so that they share no description if the list is
    long enough.
    """
    seen, unseen = self.pairs()
    pairs = {
      "train": seen * self.renderings,
      "validation": seen[: self.clips["validation"] // 2],
      "test": seen[len(seen) - self.clips["test"] // 2 :],
      "test_unseen": unseen[: self.clips["test_unseen"] // 2],
    }[name]
    others = [(appearance, story) for appearance, pair in seen for story in pair]
    contents = [(appearance, story) for appearance, pair in pairs for story in pair]
    return [self._clip(name, number, *content, others) for number, content in enumerate(contents)]

  def _clip(
    self,
    split: str,
    number: int,
    appearance: scenes.Appearance,
    story: scenes.Story,
    others: list[tuple[scenes.Appearance, scenes.Story]],
  ) -> Clip:
    # Twins have the same seed, so that they have the same frames in another order.
    scene_number = number if split == "train" else number - number % 2
    split_index = SPLITS.index(split)
    key = (self.seed, split_index, scene_number, _SCENE)
    rng = np.random.default_rng((self.seed, split_index, number, _TEXT))
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
