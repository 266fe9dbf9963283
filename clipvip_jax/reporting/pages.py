"""Self-contained HTML pages from the templates beside this file."""

import base64
import importlib.resources
import pathlib
from typing import Any

import jinja2

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError


def render(template: str, **values: Any) -> str:
  """A template of this package, filled in; what it does not mark as safe is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.FunctionLoader(_read),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["count"] = lambda number: f"{number:,}"
  return environment.get_template(template).render(**values)


def _read(name: str) -> str:
  return importlib.resources.files("clipvip_jax.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def save_page(path: pathlib.Path, page: str) -> None:
  """Writes a page that is whole or not there. Raises OSError; what stood at `path` before stays as it was."""
  with atomic_write.atomic_path(path) as temporary:
    # "replace": half a surrogate pair in one caption must not cost the page
    temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def write_page(path: pathlib.Path, page: str, flag: str) -> None:
  """Writes a page that is whole or not there. Raises UserError, naming the flag, where it cannot be written."""
  path = path.resolve()  # what a link points to is replaced, not the link
  if path.exists() and not path.is_file():
    raise UserError(f"{flag}={path} is no regular file; name one that is, or is not there yet")
  try:
    save_page(path, page)
  except OSError as error:
    raise UserError(f"{flag}={path} cannot be written: {error.strerror}") from error


def jpeg_uri(jpeg: bytes) -> str:
  """JPEG bytes as a data: URI."""
  return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
