"""What happens in a clip: who is seen (appearances), what they do (stories), and where everything is in each frame.

Positions live on a torus (what leaves at one edge enters at the opposite one) and start uniformly, so every object
is uniformly placed in every frame of every story: no single frame tells two stories of one appearance apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from clipvip_jax.errors import UserError

COLOURS = {
  "red": (228, 40, 40),
  "green": (40, 200, 70),
  "blue": (50, 100, 245),
  "yellow": (245, 215, 40),
  "purple": (190, 60, 220),
  "white": (240, 240, 240),
}
BACKGROUNDS = {"black": (14, 14, 14), "grey": (96, 96, 96), "brown": (92, 60, 34), "navy": (22, 28, 84)}
# Pairs too alike to be seen at 32 x 32 pixels.
_ALIKE = {("blue", "navy"), ("purple", "navy"), ("purple", "grey"), ("green", "grey"), ("red", "brown")}
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SIZES = {"small": 0.135, "large": 0.18}  # half the height, in widths of the picture
_SIZES_OF_TWO = {"small": 0.125, "large": 0.165}  # two objects hide each other less when smaller
TEXTURES = ("plain", "striped", "dotted")
_THIN = ("ring", "cross")  # a texture would break these up beyond recognition

# Unit steps, x to the right and y down, in widths.
_DIAGONAL = math.sqrt(0.5)
STRAIGHT = {
  "right": (1.0, 0.0),
  "left": (-1.0, 0.0),
  "up": (0.0, -1.0),
  "down": (0.0, 1.0),
  "up-right": (_DIAGONAL, -_DIAGONAL),
  "down-left": (-_DIAGONAL, _DIAGONAL),
  "up-left": (-_DIAGONAL, -_DIAGONAL),
  "down-right": (_DIAGONAL, _DIAGONAL),
}
ROUND = {"clockwise": 1.0, "counterclockwise": -1.0}  # the sign of the angle, with y down

# Over a whole event. Six evenly spaced frames of a clip stand 4 of 19 steps apart at most; the quickest of these
# then moves 0.28 widths from one to the next, so its direction is never ambiguous on the torus.
_WIDTHS = {"slowly": 0.55, "quickly": 1.2, "": 0.5}
_RADIANS = {"slowly": 3.2, "quickly": 6.6, "": 3.8}
_CIRCLE = 0.18  # radius of a circular path, in widths


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object as a sentence names it."""

  shape: str
  colour: str
  size: str
  texture: str


@dataclasses.dataclass(frozen=True)
class Appearance:
  """What a single frame shows: one or two things and the background."""

  things: tuple[Thing, ...]
  background: str


@dataclasses.dataclass(frozen=True)
class Event:
  """Thing number `thing` moves; `speed` is "slowly", "quickly" or "" (not mentioned)."""

  thing: int
  motion: str
  speed: str = ""


Story = tuple[Event, ...]  # one event takes the whole clip, two take half of it each
Pair = tuple[Story, Story]  # twins: different in direction or in order alone


def _ordered(first: Event, second: Event) -> Pair:
  return (first, second), (second, first)


_OPPOSITE = (
  ("right", "left"),
  ("up", "down"),
  ("clockwise", "counterclockwise"),
  ("up-right", "down-left"),
  ("up-left", "down-right"),
)
ONE_THING: tuple[Pair, ...] = (
  *((((Event(0, a, speed),)), (Event(0, b, speed),)) for a, b in _OPPOSITE for speed in ("quickly", "slowly")),
  _ordered(Event(0, "right"), Event(0, "up")),
  _ordered(Event(0, "left"), Event(0, "down")),
)
TWO_THINGS: tuple[Pair, ...] = tuple(
  _ordered(Event(0, first), Event(1, second))
  for first, second in (
    ("right", "down"),
    ("left", "up"),
    ("up", "right"),
    ("down", "left"),
    ("right", "left"),
    ("left", "right"),
    ("up", "down"),
    ("down", "up"),
    ("right", "clockwise"),
    ("clockwise", "up"),
    ("left", "counterclockwise"),
    ("counterclockwise", "down"),
  )
)


def appearances(count: int, rng: np.random.Generator) -> list[Appearance]:
  """`count` distinct appearances, even ones with one thing and odd ones with two. Raises UserError over 60."""
  kinds = list(itertools.product(SHAPES, COLOURS))
  if not 2 <= count <= 2 * len(kinds):
    raise UserError(f"appearances is {count}: 2 to {2 * len(kinds)} can be told apart")
  ones = rng.permutation(len(kinds))
  firsts, seconds = rng.permutation(len(kinds)), rng.permutation(len(kinds))
  result = []
  for index in range(count):
    first = kinds[(firsts if index % 2 else ones)[index // 2]]
    chosen = [first]
    if index % 2:
      # Another shape and another colour, so that each word names one of the two.
      order = np.roll(seconds, -(index // 2))
      chosen.append(next(kinds[k] for k in order if not set(kinds[k]) & set(first)))
    result.append(_appearance(chosen, rng))
  return result


def _appearance(kinds: list[tuple[str, str]], rng: np.random.Generator) -> Appearance:
  things = tuple(
    Thing(shape, colour, str(rng.choice(list(SIZES))), "plain" if shape in _THIN else str(rng.choice(TEXTURES)))
    for shape, colour in kinds
  )
  clear = [b for b in BACKGROUNDS if not any((thing.colour, b) in _ALIKE for thing in things)]
  return Appearance(things, str(rng.choice(clear)))


@dataclasses.dataclass(frozen=True)
class Body:
  """A thing as one clip draws it: RGB 0 to 255, radius in widths."""

  shape: str
  texture: str
  colour: np.ndarray
  radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """Everything a renderer needs. centres: float [T, bodies, 2], x and y in [0, 1) on the torus."""

  bodies: tuple[Body, ...]
  background: np.ndarray
  centres: np.ndarray


def stage(appearance: Appearance, story: Story, frames: int, rng: np.random.Generator) -> Scene:
  """One rendering: random places and phases, and a little of everything else.

  The draws are the same in number and kind for every story, and the starts are uniform: see the module's first lines.
  """
  sizes = SIZES if len(appearance.things) == 1 else _SIZES_OF_TWO
  bodies = tuple(
    Body(
      thing.shape,
      thing.texture,
      np.clip(np.array(COLOURS[thing.colour]) + rng.uniform(-14, 14, 3), 0, 255),
      sizes[thing.size] * rng.uniform(0.94, 1.06),
    )
    for thing in appearance.things
  )
  background = np.clip(np.array(BACKGROUNDS[appearance.background]) + rng.uniform(-8, 8, 3), 0, 255)
  start = rng.uniform(0, 1, (len(bodies), 2))
  phase, turn, pace = rng.uniform(0, 2 * math.pi), rng.uniform(0.46, 0.54), rng.uniform(0.9, 1.08)
  moved = _displacement(story, len(bodies), np.linspace(0, 1, frames), phase, turn, pace)
  return Scene(bodies, background, (start + moved) % 1.0)


def _displacement(story: Story, bodies: int, time: np.ndarray, phase: float, turn: float, pace: float) -> np.ndarray:
  """[T, bodies, 2], in widths. turn: when the second event begins, as a share of the clip."""
  result = np.zeros((len(time), bodies, 2))
  spans = [(0.0, 1.0)] if len(story) == 1 else [(0.0, turn), (turn, 1.0)]
  for event, (begin, end) in zip(story, spans, strict=True):
    done = np.clip((time - begin) / (end - begin), 0, 1) * pace
    if event.motion in STRAIGHT:
      result[:, event.thing] += _WIDTHS[event.speed] * done[:, None] * np.array(STRAIGHT[event.motion])
    else:
      angle = phase + ROUND[event.motion] * _RADIANS[event.speed] * done
      path = np.stack([np.cos(angle), np.sin(angle)], 1)
      result[:, event.thing] += _CIRCLE * (path - [math.cos(phase), math.sin(phase)])
  return result
