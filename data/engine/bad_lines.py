"""Collects errors of annotation lines, so that `check` reports several at once. Otherwise the first one is raised."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from clipvip_jax.utils.errors import UserError

_T = TypeVar("_T")
_LIMIT = 20
_errors: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("bad_lines", default=None)


class BadLinesError(UserError):
  """Lines of annotations are invalid.

  Attributes:
    errors: one message for each of the first lines.
  """

  def __init__(self, errors: list[str]):
    count = f"at least {_LIMIT}" if len(errors) >= _LIMIT else len(errors)
    super().__init__(errors[0] if len(errors) == 1 else f"the annotations have {count} invalid lines; repair them")
    self.errors = errors


def attempt(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T | None:
  """Returns the result of a function of one line; None if its UserError was collected.

  Raises:
    UserError: the line is invalid, and errors are not collected.
    BadLinesError: this is the last error that is collected.
  """
  try:
    return function(*args, **kwargs)
  except UserError as error:
    if (errors := _errors.get()) is None:
      raise
    errors.append(str(error))
    if len(errors) >= _LIMIT:
      raise BadLinesError(errors) from error
    return None


def raise_collected() -> None:
  """Raises BadLinesError if `attempt` has collected errors: between two readings of the same lines."""
  if errors := _errors.get():
    raise BadLinesError(errors)


@contextlib.contextmanager
def collect() -> Iterator[None]:
  """Collects errors of `attempt` within the block, up to twenty.

  Raises:
    BadLinesError: at the end of the block, if there were any.
  """
  errors: list[str] = []
  token = _errors.set(errors)
  try:
    yield
  except BadLinesError:
    raise
  except UserError as error:  # such as a split whose lines are all invalid
    if not errors:
      raise
    raise BadLinesError([*errors, str(error)]) from error
  finally:
    _errors.reset(token)
  if errors:
    raise BadLinesError(errors)
