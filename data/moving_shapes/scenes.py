"""What happens in a clip: who is seen (appearances), what they do (stories), and where everything is in each frame.

Twins show the same pictures in another order of time: what moves right passes the places of what moves left, and of two
objects only the one that moves is on stage. Drawn from the same numbers, their frames are the same set.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from clipvip_jax.utils.errors import UserError

COLOURS = {
  "red": (228, 40, 40),
  "orange": (250, 140, 20),
  "yellow": (240, 225, 50),
  "green": (40, 190, 60),
  "cyan": (50, 215, 225),
  "blue": (50, 90, 245),
  "purple": (200, 70, 230),
  "white": (240, 240, 240),
}
# Dark, so that every object stands out.
BACKGROUNDS = {"black": (10, 10, 10), "grey": (58, 58, 58), "brown": (66, 40, 18), "navy": (16, 20, 72)}
_ALIKE = {("blue", "navy")}  # pairs too alike to be seen at 32 x 32 pixels
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SIZES = {"small": 0.15, "large": 0.21}  # half the height, in widths of the picture
TEXTURES = ("plain", "striped", "dotted")
_THIN = ("ring", "cross")  # a texture would break these up beyond recognition

# Directions, x to the right and y down.
STRAIGHT = {
  "right": (1.0, 0.0),
  "left": (-1.0, 0.0),
  "up": (0.0, -1.0),
  "down": (0.0, 1.0),
  "up-right": (1.0, -1.0),
  "down-left": (-1.0, 1.0),
  "up-left": (-1.0, -1.0),
  "down-right": (1.0, 1.0),
}
ROUND = {"clockwise": 1.0, "counterclockwise": -1.0}  # the sign of the angle, with y down

# How far an event goes: a straight one in widths along each axis, a round one in radians about the top of its circle.
_WIDTHS = {"slowly": 0.5, "quickly": 0.95}
_RADIANS = {"slowly": 2.4, "quickly": 4.2}
_LEG = 0.56  # of one object that does two things, in widths
_CROSSING = 1.0  # of two objects, one after the other, from edge to edge
_CIRCLE = 0.32  # radius of a circular path, in widths
_OFF_STAGE = -9.0  # where nothing can be seen of any object


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object as a sentence names it."""

  shape: str
  colour: str
  size: str


@dataclasses.dataclass(frozen=True)
class Appearance:
  """Who is seen: one thing or two."""

  things: tuple[Thing, ...]


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
  # The twin goes the same way back: in the other order its corner would lie elsewhere, and give it away.
  ((Event(0, "right"), Event(0, "up")), (Event(0, "down"), Event(0, "left"))),
  ((Event(0, "left"), Event(0, "up")), (Event(0, "down"), Event(0, "right"))),
)
# Four paths that differ by where they lead, so that a story of two objects asks for the order and not for directions.
TWO_THINGS: tuple[Pair, ...] = tuple(
  _ordered(Event(0, first), Event(1, second))
  for first, second in itertools.permutations(("right", "down", "up-right", "down-right"), 2)
)


def appearances(count: int, rng: np.random.Generator) -> list[Appearance]:
  """`count` distinct appearances, even ones with one thing and odd ones with two. Raises UserError over 80."""
  most = 2 * len(SHAPES) * len(COLOURS)
  if not 2 <= count <= most:
    raise UserError(f"appearances is {count}: 2 to {most} can be told apart")
  ones, firsts, seconds = (_kinds(rng) for _ in range(3))
  result = []
  for index in range(count):
    number = index // 2
    chosen = [(firsts if index % 2 else ones)[number]]
    if index % 2:
      # Another shape and another colour, so that each word names one of the two.
      chosen.append(next(kind for kind in seconds[number:] + seconds if not set(kind) & set(chosen[0])))
    result.append(Appearance(tuple(Thing(*kind, str(rng.choice(list(SIZES)))) for kind in chosen)))
  return result


def _kinds(rng: np.random.Generator) -> list[tuple[str, str]]:
  """Every (shape, colour) once; each shape and each colour comes back as late as possible.

  Both go round, and their numbers have no common factor.
  """
  shapes, colours = (list(map(str, rng.permutation(names))) for names in (SHAPES, list(COLOURS)))
  return [(shapes[k % len(shapes)], colours[k % len(colours)]) for k in range(len(shapes) * len(colours))]


@dataclasses.dataclass(frozen=True)
class Body:
  """A thing as one clip draws it: RGB 0 to 255, radius in widths."""

  shape: str
  texture: str
  colour: np.ndarray
  radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """Everything a renderer needs, and the background's name.

  colour: RGB of the background. centres: float [T, bodies, 2], x and y in widths; far outside [0, 1]: off stage.
  """

  bodies: tuple[Body, ...]
  background: str
  colour: np.ndarray
  centres: np.ndarray


def stage(appearance: Appearance, story: Story, frames: int, rng: np.random.Generator) -> Scene:
  """One rendering: random places, pace, textures and background, and a little of everything else.

  What is drawn does not depend on the story: the same generator gives twins the same pictures.
  """
  bodies = tuple(
    Body(
      thing.shape,
      "plain" if thing.shape in _THIN else str(rng.choice(TEXTURES)),
      np.clip(np.array(COLOURS[thing.colour]) + rng.uniform(-14, 14, 3), 0, 255),
      SIZES[thing.size] * rng.uniform(0.94, 1.06),
    )
    for thing in appearance.things
  )
  clear = [b for b in BACKGROUNDS if not any((thing.colour, b) in _ALIKE for thing in appearance.things)]
  background = str(rng.choice(clear))
  colour = np.clip(np.array(BACKGROUNDS[background]) + rng.uniform(-8, 8, 3), 0, 255)
  time = np.linspace(0, 1, frames)
  draws = rng.uniform(-1, 1, (2, 3))
  if len(story) == 1:
    centres = _alone(story[0], time, draws[0])[:, None]
  elif story[0].thing == story[1].thing:
    centres = _two_legs(story, time, draws[0])[:, None]
  else:
    centres = _one_after_the_other(story, frames, draws)
  return Scene(bodies, background, colour, centres)


def _alone(event: Event, time: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """[T, 2]: one event over the whole clip, symmetric about its middle. draws: three of [-1, 1]."""
  if event.motion in ROUND:
    angle = -math.pi / 2 + 0.3 * draws[2] + ROUND[event.motion] * _RADIANS[event.speed] * (time - 0.5)
    return 0.5 + 0.08 * draws[:2] + _CIRCLE * np.stack([np.cos(angle), np.sin(angle)], 1)
  return _straight(event, time, _WIDTHS[event.speed] * (1 + 0.05 * draws[2]), draws)


def _straight(event: Event, done: np.ndarray, widths: float, draws: np.ndarray) -> np.ndarray:
  """[T, 2]: through the middle of the picture, give or take; further aside where that leaves the path straight."""
  direction = np.array(STRAIGHT[event.motion])
  aside = np.where(direction == 0, 0.18, 0.06)
  return 0.5 + aside * draws[:2] + widths * (done[:, None] - 0.5) * direction


def _two_legs(story: Story, time: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """[T, 2]: one object goes one way and then another, around the middle of the picture."""
  legs = _LEG * np.array([STRAIGHT[event.motion] for event in story])
  done = np.stack([np.clip(2 * time, 0, 1), np.clip(2 * time - 1, 0, 1)], 1)
  return 0.5 - legs.sum(0) / 2 + 0.08 * draws[:2] + done @ legs


def _one_after_the_other(story: Story, frames: int, draws: np.ndarray) -> np.ndarray:
  """[T, 2, 2]: each object crosses the picture in its own half of the clip, and is off stage in the other."""
  centres = np.full((frames, 2, 2), _OFF_STAGE)
  half = frames // 2  # the middle frame, T / 2, is the first of the second event
  for event, (begin, end) in zip(story, ((0, half), (half, frames)), strict=True):
    # Half a frame in from both ends, so that an event looks the same in either place.
    done = (np.arange(end - begin) + 0.5) / (end - begin)
    centres[begin:end, event.thing] = _straight(event, done, _CROSSING, draws[event.thing])
  return centres
