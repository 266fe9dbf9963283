"""Engine that calls a function of the user: MODULE:FUNCTION."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.captioning.engine import Answer, NumberedFrame, run_in_batches
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable


class FunctionEngine:
  """Calls FUNCTION(frames, prompt), which returns one text per frame; frames are uint8 RGB arrays [H, W, 3]."""

  def __init__(self, name: str, model: str, prompt: str, batch_size: int):
    """Imports the function.

    Args:
      name: MODULE:FUNCTION.
      model: recorded in the output.
      prompt: passed to the function.
      batch_size: frames per call.

    Raises:
      UserError: there is no such function.
    """
    self._name, self._model, self._prompt, self._batch_size = name, model, prompt, batch_size
    self._function = _import_function(name)

  def describe(self) -> dict[str, Any]:
    """See `Engine`."""
    return {"engine": self._name, "model": self._model, "prompt": self._prompt}

  def check(self) -> None:
    """The constructor has imported the function."""

  def run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    """See `Engine`. Exceptions of the function end the run; complete files are kept."""
    run_in_batches(frames, self._batch_size, self._call, done)

  def _call(self, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Answer]:
    texts = self._function(list(frames), self._prompt)
    if not isinstance(texts, list | tuple) or len(texts) != len(frames):
      size = f" of {len(texts)}" if isinstance(texts, list | tuple) else ""
      raise UserError(
        f"--engine={self._name} returned {type(texts).__name__}{size} for {len(frames)} frames; return a list with one"
        " text per frame"
      )
    if wrong := [text for text in texts if not isinstance(text, str)]:
      raise UserError(f"--engine={self._name} returned {type(wrong[0]).__name__} in place of a text; return strings")
    return [Answer(text) for text in texts]


def _import_function(name: str) -> Callable[..., Any]:
  module, _, function = name.partition(":")
  try:
    found = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError, TypeError) as error:
    raise UserError(
      f"--engine={printable(name)} is unknown ({error}); pass endpoint, transformers or MODULE:FUNCTION, a function of"
      " a module in the working directory or of an installed one"
    ) from error
  if not callable(found):
    raise UserError(f"--engine={printable(name)} is not a function; pass MODULE:FUNCTION")
  return found
