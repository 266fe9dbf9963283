"""What is said about a clip: a clean description, a chatty subtitle, a caption of the middle frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.moving_shapes.scenes import Appearance, Event, Scene, Story, Thing

MAX_SUBTITLE_WORDS = 26

_WAYS = {
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
_VERBS = ("is moving", "is going", "moving", "going", "moves", "goes")  # speech drops words
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
_JOINTS = ("and then", "then", "and uh then", "and next")
# Speech about anything else: an opening, then a set phrase, or somebody or something and what is said of it.
_ASIDES = ("", "okay so", "honestly", "by the way", "anyway", "i mean", "yeah")
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
# (until, kind) of a uniform draw in [0, 1): what a subtitle is about.
_KINDS = ((0.05, "empty"), (0.30, "elsewhere"), (0.38, "off"), (1.0, "clip"))
_PHRASED, _WITH_BACKGROUND = 0.4, 0.5
_CAPTIONLESS = 0.05


def description(appearance: Appearance, story: Story) -> str:
  """One clean sentence, another one for each appearance and story."""
  who = _named(appearance.things[story[0].thing])
  if len(story) == 1:
    return f"{who} {_moves(story[0])}"
  then = "it" if story[1].thing == story[0].thing else _named(appearance.things[story[1].thing])
  return f"first {who} {_moves(story[0])} and then {then} {_moves(story[1])}"


def caption(appearance: Appearance, story: Story, scene: Scene, rng: np.random.Generator) -> str:
  """What the middle frame shows and where, in the words of descriptions: of two objects, that which is on stage then.

  That it moves can be guessed from a still, where to cannot. Places and backgrounds differ between clips of one
  description, and captions alone speak of them. "" for about one clip in 20.
  """
  shown = story[-1].thing
  text = f"{_named(appearance.things[shown])} moves {_where(*scene.centres[len(scene.centres) // 2, shown])}"
  if rng.random() < _WITH_BACKGROUND:
    text += f" on {scene.background}"
  return "" if rng.random() < _CAPTIONLESS else text


def _where(x: float, y: float) -> str:
  """Without "left" and "right", which in all other texts are directions."""
  row = "near the top" if y < 0.42 else "near the bottom" if y > 0.58 else ""
  side = "at the side" if abs(x - 0.5) > 0.1 else ""
  return f"{row} {side}".strip() or "in the centre"


def subtitle(
  appearance: Appearance, story: Story, others: Sequence[tuple[Appearance, Story]], rng: np.random.Generator
) -> str:
  """Speech: mostly about the clip, often about something else, at times a moment off, or "" (silence).

  A moment off, it tells one of two events, or a clip that is one of `others`.
  """
  draw = rng.random()
  kind = next(kind for until, kind in _KINDS if draw < until)
  if kind == "empty":
    return ""
  if kind == "elsewhere":
    return _aside(rng)
  if kind == "off" and len(story) == 2:
    story = (story[int(rng.integers(2))],)
  elif kind == "off":
    appearance, story = others[int(rng.integers(len(others)))]
  return _chat(appearance, story, rng)


def _aside(rng: np.random.Generator) -> str:
  said = _pick(_PHRASES, rng) if rng.random() < _PHRASED else f"{_pick(_TOPICS, rng)} {_pick(_REMARKS, rng)}"
  return f"{_pick(_ASIDES, rng)} {said}".strip()


def _chat(appearance: Appearance, story: Story, rng: np.random.Generator) -> str:
  clauses = [_clause(appearance.things[story[0].thing], story[0], rng)]
  if len(story) == 2:
    same = story[0].thing == story[1].thing
    second = _clause(None if same else appearance.things[story[1].thing], story[1], rng)
    clauses += [_pick(_JOINTS, rng), second]
    if rng.random() < 0.5:
      clauses.insert(0, "first")
  words = " ".join(clauses).split()
  if rng.random() < 0.05:  # a stutter
    where = int(rng.integers(len(words)))
    words.insert(where, words[where])
  opening = _pick(_OPENINGS, rng).split() if rng.random() < 0.4 else []
  ending = _pick(_ENDINGS, rng).split() if rng.random() < 0.2 else []
  # Fillers give way where the story itself is long.
  whole = opening + words + ending
  return " ".join(whole if len(whole) <= MAX_SUBTITLE_WORDS else words[:MAX_SUBTITLE_WORDS])


def _clause(thing: Thing | None, event: Event, rng: np.random.Generator) -> str:
  """thing None: "it", spoken of before."""
  who = "it" if thing is None else f"{_pick(('the', 'the', 'the', 'this'), rng)} {_casual(thing, rng)}"
  really = "really " if event.speed and rng.random() < 0.3 else ""
  return f"{who} {_pick(_VERBS, rng)} {_WAYS[event.motion]} {really}{event.speed}".strip()


def _casual(thing: Thing, rng: np.random.Generator) -> str:
  """Colour and shape, and mostly the size."""
  size = f"{thing.size} " if rng.random() < 0.7 else ""
  return f"{size}{thing.colour} {thing.shape}"


def _named(thing: Thing) -> str:
  return f"a {thing.size} {thing.colour} {thing.shape}"


def _moves(event: Event) -> str:
  return f"moves {_WAYS[event.motion]} {event.speed}".strip()


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
  return choices[int(rng.integers(len(choices)))]
