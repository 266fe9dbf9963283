"""Scenes of clips: their objects (appearances), their motion (stories), and all positions in each frame.

Twins are two clips with the same set of frames in another order of time: an object moving right passes the positions of
one moving left, and of two objects only the moving one is visible. Twins are drawn with the same random numbers.
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
# Dark, in contrast to all objects.
BACKGROUNDS = {"black": (10, 10, 10), "grey": (58, 58, 58), "brown": (66, 40, 18), "navy": (16, 20, 72)}
_LOW_CONTRAST = {("blue", "navy")}  # indistinguishable at 32 x 32 pixels
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SIZES = {"small": 0.15, "large": 0.21}  # half the height of an object, in picture widths
TEXTURES = ("plain", "striped", "dotted")
_UNTEXTURED = ("ring", "cross")  # too thin to be recognised with a texture

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

# Length of an event: straight in picture widths along each axis, round in radians centred on the top of its circle.
_WIDTHS = {"slowly": 0.5, "quickly": 0.95}
_RADIANS = {"slowly": 2.4, "quickly": 4.2}
_LEG = 0.56  # picture widths, of each event of an object that has two
_CROSSING = 1.0  # picture widths, of each of two objects, from edge to edge
_CIRCLE = 0.32  # radius of a circular path in picture widths
_OFF_STAGE = -9.0  # coordinate of invisible objects


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object as texts describe it."""

  shape: str
  colour: str
  size: str


@dataclasses.dataclass(frozen=True)
class Appearance:
  """The objects of a clip, one or two."""

  things: tuple[Thing, ...]


@dataclasses.dataclass(frozen=True)
class Event:
  """A motion of one object.

  Attributes:
    thing: index of the object.
    motion: a key of STRAIGHT or ROUND.
    speed: "slowly", "quickly", or "" if texts do not mention it.
  """

  thing: int
  motion: str
  speed: str = ""


Story = tuple[Event, ...]  # one event that takes the entire clip, or two that take half of it each
Pair = tuple[Story, Story]  # twins: they differ only in direction or order


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
  # The twin retraces the path: with its events in the other order, the corner would be elsewhere and reveal it.
  ((Event(0, "right"), Event(0, "up")), (Event(0, "down"), Event(0, "left"))),
  ((Event(0, "left"), Event(0, "up")), (Event(0, "down"), Event(0, "right"))),
)
# No two of these directions are opposite, so that twins of two objects differ in order and not in direction.
TWO_THINGS: tuple[Pair, ...] = tuple(
  _ordered(Event(0, first), Event(1, second))
  for first, second in itertools.permutations(("right", "down", "up-right", "down-right"), 2)
)


def appearances(count: int, rng: np.random.Generator) -> list[Appearance]:
  """Returns distinct appearances; those with an even index have one object, the others two.

  Args:
    count: number of appearances, 2 to 80.
    rng: source of randomness.

  Raises:
    UserError: `count` is out of range.
  """
  most = 2 * len(SHAPES) * len(COLOURS)
  if not 2 <= count <= most:
    raise UserError(f"appearances={count} is out of range; use 2 to {most}, which are distinct")
  ones, firsts, seconds = (_kinds(rng) for _ in range(3))
  result = []
  for index in range(count):
    number = index // 2
    chosen = [(firsts if index % 2 else ones)[number]]
    if index % 2:
      # Another shape and another colour, so that each word refers to one of the two.
      chosen.append(next(kind for kind in seconds[number:] + seconds if not set(kind) & set(chosen[0])))
    result.append(Appearance(tuple(Thing(*kind, str(rng.choice(list(SIZES)))) for kind in chosen)))
  return result


def _kinds(rng: np.random.Generator) -> list[tuple[str, str]]:
  """Returns each (shape, colour) once, with repetitions of a shape or colour as late as possible.

  Cycles through both; the numbers of shapes and colours are coprime.
  """
  shapes, colours = (list(map(str, rng.permutation(names))) for names in (SHAPES, list(COLOURS)))
  return [(shapes[k % len(shapes)], colours[k % len(colours)]) for k in range(len(shapes) * len(colours))]


@dataclasses.dataclass(frozen=True)
class Body:
  """An object as drawn in one clip: colour in RGB, 0 to 255, radius in picture widths."""

  shape: str
  texture: str
  colour: np.ndarray
  radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """Input of the renderer.

  Attributes:
    bodies: the objects.
    background: name of the background colour.
    colour: RGB of the background.
    centres: float [T, bodies, 2], x and y in picture widths; far outside [0, 1]: invisible.
  """

  bodies: tuple[Body, ...]
  background: str
  colour: np.ndarray
  centres: np.ndarray


def stage(appearance: Appearance, story: Story, frames: int, rng: np.random.Generator) -> Scene:
  """Returns one rendering with random positions, lengths of paths, textures, background, colours and sizes.

  The random draws do not depend on the story: the same generator state gives twins the same set of frames.
  """
  bodies = tuple(
    Body(
      thing.shape,
      "plain" if thing.shape in _UNTEXTURED else str(rng.choice(TEXTURES)),
      np.clip(np.array(COLOURS[thing.colour]) + rng.uniform(-14, 14, 3), 0, 255),
      SIZES[thing.size] * rng.uniform(0.94, 1.06),
    )
    for thing in appearance.things
  )
  contrasting = [b for b in BACKGROUNDS if not any((thing.colour, b) in _LOW_CONTRAST for thing in appearance.things)]
  background = str(rng.choice(contrasting))
  colour = np.clip(np.array(BACKGROUNDS[background]) + rng.uniform(-8, 8, 3), 0, 255)
  time = np.linspace(0, 1, frames)
  draws = rng.uniform(-1, 1, (2, 3))
  if len(story) == 1:
    centres = _one_event(story[0], time, draws[0])[:, None]
  elif story[0].thing == story[1].thing:
    centres = _two_events(story, time, draws[0])[:, None]
  else:
    centres = _two_objects(story, frames, draws)
  return Scene(bodies, background, colour, centres)


def _one_event(event: Event, time: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Returns centres [T, 2] of one event over the entire clip, symmetric about its middle. draws: three in [-1, 1]."""
  if event.motion in ROUND:
    angle = -math.pi / 2 + 0.3 * draws[2] + ROUND[event.motion] * _RADIANS[event.speed] * (time - 0.5)
    return 0.5 + 0.08 * draws[:2] + _CIRCLE * np.stack([np.cos(angle), np.sin(angle)], 1)
  return _straight(event, time, _WIDTHS[event.speed] * (1 + 0.05 * draws[2]), draws)


def _straight(event: Event, progress: np.ndarray, widths: float, draws: np.ndarray) -> np.ndarray:
  """Returns centres [T, 2] through the middle of the picture, with a random offset, larger across straight axes."""
  direction = np.array(STRAIGHT[event.motion])
  spread = np.where(direction == 0, 0.18, 0.06)
  return 0.5 + spread * draws[:2] + widths * (progress[:, None] - 0.5) * direction


def _two_events(story: Story, time: np.ndarray, draws: np.ndarray) -> np.ndarray:
  """Returns centres [T, 2] of one object with two events, around the middle of the picture."""
  legs = _LEG * np.array([STRAIGHT[event.motion] for event in story])
  progress = np.stack([np.clip(2 * time, 0, 1), np.clip(2 * time - 1, 0, 1)], 1)
  return 0.5 - legs.sum(0) / 2 + 0.08 * draws[:2] + progress @ legs


def _two_objects(story: Story, frames: int, draws: np.ndarray) -> np.ndarray:
  """Returns centres [T, 2, 2]: each object crosses the picture in one half of the clip, invisible in the other."""
  centres = np.full((frames, 2, 2), _OFF_STAGE)
  half = frames // 2  # the middle frame, T / 2, is the first frame of the second event
  for event, (begin, end) in zip(story, ((0, half), (half, frames)), strict=True):
    # Half a frame from both ends, so that an event has the same frames in either half.
    progress = (np.arange(end - begin) + 0.5) / (end - begin)
    centres[begin:end, event.thing] = _straight(event, progress, _CROSSING, draws[event.thing])
  return centres
