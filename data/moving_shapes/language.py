"""Texts of a clip: a precise description, a noisy subtitle, and a caption of the middle frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipvip_jax.data.moving_shapes.scenes import Appearance, Event, Scene, Story, Thing

MAX_SUBTITLE_WORDS = 26

_DIRECTIONS = {
  "right": "to the right",
  "left": "to the left",
  "up": "up",
  "down": "down",
  "up-right": "up to the right",
  "up-left": "up to the left",
  "down-right": "down to the right",
  "down-left": "down to the left",
  "clockwise": "around clockwise",
  "counterclockwise": "around counterclockwise",
}
_VERBS = ("is moving", "is going", "moving", "going", "moves", "goes")  # speech omits words
_OPENINGS = (
  "okay so now uh",
  "um",
  "and here",
  "you know",
  "look at this",
  "so basically",
  "oh wow",
  "as you can see",
  "yeah and",
  "now",
  "let me show you",
  "well",
)
_ENDINGS = ("you see", "i think", "like so", "guys", "isn't that cool", "again", "uh huh")
_CONJUNCTIONS = ("and then", "then", "and uh then", "and next")
# Unrelated speech: an opening, then a phrase, or a topic with a remark.
_UNRELATED_OPENINGS = ("", "okay so", "honestly", "by the way", "anyway", "i mean", "yeah")
_PHRASES = (
  "don't forget to subscribe and hit the bell",
  "thanks so much for watching guys",
  "before we start a word about our sponsor",
  "if you like this video leave a comment below",
  "sorry about the noise my neighbor is cutting wood",
  "let me grab some coffee real quick",
  "the link is in the description as always",
  "i made this music myself last week",
  "see you in the next one bye",
  "can everyone hear me okay",
  "we have a new shirt in the store",
)
_TOPICS = (
  "my brother",
  "this channel",
  "the weather",
  "our sponsor",
  "my coffee",
  "the new update",
  "everyone in the chat",
  "the other video",
  "my neighbor",
  "that song",
  "the food here",
  "the team",
)
_REMARKS = (
  "has been crazy lately",
  "is really good this year",
  "made me laugh so much",
  "will be out next week",
  "was so expensive",
  "told me about it yesterday",
  "is in the link below",
  "took way too long",
  "sounds terrible today",
  "just hit a million",
)
# Kinds of subtitles with their cumulative probabilities.
_KINDS = ((0.05, "empty"), (0.30, "unrelated"), (0.38, "misaligned"), (1.0, "clip"))
# Probabilities: of a phrase in unrelated speech, of the background in a caption, of no caption.
_PHRASE, _WITH_BACKGROUND, _NO_CAPTION = 0.4, 0.5, 0.05


def description(appearance: Appearance, story: Story) -> str:
  """Returns one precise sentence, unique for each appearance and story."""
  subject = _full_name(appearance.things[story[0].thing])
  if len(story) == 1:
    return f"{subject} {_moves(story[0])}"
  then = "it" if story[1].thing == story[0].thing else _full_name(appearance.things[story[1].thing])
  return f"first {subject} {_moves(story[0])} and then {then} {_moves(story[1])}"


def caption(appearance: Appearance, story: Story, scene: Scene, rng: np.random.Generator) -> str:
  """Returns a text of the object that is visible in the middle frame and of its position, worded like descriptions.

  Does not mention the direction of motion, which a still image cannot show. Positions and backgrounds vary between
  clips of one description and are mentioned only in captions. "" with probability 0.05.
  """
  visible = story[-1].thing
  position = scene.centres[len(scene.centres) // 2, visible]
  text = f"{_full_name(appearance.things[visible])} moves {_describe_position(*position)}"
  if rng.random() < _WITH_BACKGROUND:
    text += f" on {scene.background}"
  return "" if rng.random() < _NO_CAPTION else text


def _describe_position(x: float, y: float) -> str:
  """Returns a position without "left" and "right", which are directions in all other texts."""
  row = "near the top" if y < 0.42 else "near the bottom" if y > 0.58 else ""
  side = "at the side" if abs(x - 0.5) > 0.1 else ""
  return f"{row} {side}".strip() or "in the centre"


def subtitle(
  appearance: Appearance, story: Story, others: Sequence[tuple[Appearance, Story]], rng: np.random.Generator
) -> str:
  """Returns speech: mostly about the clip, else unrelated, misaligned in time, or "".

  Misaligned speech is about one of two events, or about one of `others`.
  """
  draw = rng.random()
  kind = next(kind for threshold, kind in _KINDS if draw < threshold)
  if kind == "empty":
    return ""
  if kind == "unrelated":
    return _unrelated_speech(rng)
  if kind == "misaligned" and len(story) == 2:
    story = (story[int(rng.integers(2))],)
  elif kind == "misaligned":
    appearance, story = others[int(rng.integers(len(others)))]
  return _speech(appearance, story, rng)


def _unrelated_speech(rng: np.random.Generator) -> str:
  sentence = _pick(_PHRASES, rng) if rng.random() < _PHRASE else f"{_pick(_TOPICS, rng)} {_pick(_REMARKS, rng)}"
  return f"{_pick(_UNRELATED_OPENINGS, rng)} {sentence}".strip()


def _speech(appearance: Appearance, story: Story, rng: np.random.Generator) -> str:
  clauses = [_clause(appearance.things[story[0].thing], story[0], rng)]
  if len(story) == 2:
    same = story[0].thing == story[1].thing
    second = _clause(None if same else appearance.things[story[1].thing], story[1], rng)
    clauses += [_pick(_CONJUNCTIONS, rng), second]
    if rng.random() < 0.5:
      clauses.insert(0, "first")
  words = " ".join(clauses).split()
  if rng.random() < 0.05:  # a stutter
    index = int(rng.integers(len(words)))
    words.insert(index, words[index])
  opening = _pick(_OPENINGS, rng).split() if rng.random() < 0.4 else []
  ending = _pick(_ENDINGS, rng).split() if rng.random() < 0.2 else []
  # Long stories get neither opening nor ending.
  sentence = opening + words + ending
  return " ".join(sentence if len(sentence) <= MAX_SUBTITLE_WORDS else words[:MAX_SUBTITLE_WORDS])


def _clause(thing: Thing | None, event: Event, rng: np.random.Generator) -> str:
  """Returns one clause of speech; `thing=None` is an object mentioned before, "it"."""
  subject = "it" if thing is None else f"{_pick(('the', 'the', 'the', 'this'), rng)} {_casual_name(thing, rng)}"
  really = "really " if event.speed and rng.random() < 0.3 else ""
  return f"{subject} {_pick(_VERBS, rng)} {_DIRECTIONS[event.motion]} {really}{event.speed}".strip()


def _casual_name(thing: Thing, rng: np.random.Generator) -> str:
  """Returns colour and shape, mostly with the size."""
  size = f"{thing.size} " if rng.random() < 0.7 else ""
  return f"{size}{thing.colour} {thing.shape}"


def _full_name(thing: Thing) -> str:
  return f"a {thing.size} {thing.colour} {thing.shape}"


def _moves(event: Event) -> str:
  return f"moves {_DIRECTIONS[event.motion]} {event.speed}".strip()


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
  return choices[int(rng.integers(len(choices)))]
