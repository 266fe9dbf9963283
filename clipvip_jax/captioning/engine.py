"""Engines that describe frames: their interface, and engines that describe one batch after another."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.input_pipeline.image_files import decode_image

DEFAULT_PROMPT = "Describe this picture in one short sentence."
# Reasons for which an engine gives no answer to a frame.
REFUSED_IMAGE = "refused_image"  # the endpoint does not accept it
FAILED = "failed"  # all attempts failed; the next run tries the clip again


@dataclasses.dataclass(frozen=True)
class Answer:
  """What an engine says of a frame.

  Attributes:
    text: untrusted; "" if there is none.
    incomplete: whether the engine stopped at its limit of tokens.
    refusal: whether the engine declares that it refuses to describe the frame.
    failure: REFUSED_IMAGE or FAILED; "" if there is an answer.
    detail: of the failure.
  """

  text: str = ""
  incomplete: bool = False
  refusal: bool = False
  failure: str = ""
  detail: str = ""


# Number of a clip, and its frame as JPEG.
NumberedFrame = tuple[int, bytes]


class Engine(Protocol):
  """Describes frames."""

  def describe(self) -> dict[str, Any]:
    """Returns what determines the answers, as JSON values for the header of the output: model, prompt, parameters."""

  def check(self) -> None:
    """Checks, before frames are read, that the engine can be used.

    Raises:
      UserError: it cannot.
    """

  def run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    """Describes frames.

    Args:
      frames: drawn from as answers arrive, by one thread at a time.
      done: called with the number and the answer of each frame, in any order.

    Raises:
      UserError: no frame can be described, as with a wrong key.
    """


def run_in_batches(
  frames: Iterator[NumberedFrame],
  batch_size: int,
  describe_batch: Callable[[Sequence[UInt8[np.ndarray, "h w 3"]]], Sequence[Answer]],
  done: Callable[[int, Answer], None],
) -> None:
  """Implements `Engine.run` for an engine that describes several frames in one call.

  Args:
    frames: see `Engine.run`.
    batch_size: frames per call.
    describe_batch: returns an answer for each frame.
    done: see `Engine.run`.
  """
  while batch := list(itertools.islice(frames, batch_size)):
    answers = describe_batch([decode_image(jpeg) for _, jpeg in batch])
    for (number, _), answer in zip(batch, answers, strict=True):
      done(number, answer)
