"""Self-contained HTML pages, rendered from templates/ and written atomically."""

import base64
import importlib.resources
import pathlib
from typing import Any

import jinja2

from clipvip_jax.utils import atomic_write


def render(template: str, **values: Any) -> str:
  """Renders a template of templates/; values are escaped unless they are `markupsafe.Markup`.

  Raises:
    jinja2.UndefinedError: the template uses a value that is not given.
  """
  environment = jinja2.Environment(
    loader=jinja2.FunctionLoader(_read_template),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["count"] = lambda number: f"{number:,}"
  return environment.get_template(template).render(**values)


def _read_template(name: str) -> str:
  return importlib.resources.files("clipvip_jax.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def save_page(path: pathlib.Path, page: str) -> None:
  """Writes a page atomically.

  Raises:
    OSError: it cannot be written; an existing file is unchanged.
  """
  with atomic_write.atomic_path(path) as temporary:
    _write_text(temporary, page)


def _write_text(path: pathlib.Path, page: str) -> None:
  # "replace": a lone surrogate in a caption must not prevent the page
  path.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def write_page(path: pathlib.Path, page: str, flag: str) -> None:
  """Writes a page that a flag names, atomically.

  Args:
    path: the file; of a symbolic link, its target is replaced.
    page: the HTML.
    flag: for error messages, such as "--html".

  Raises:
    UserError: it cannot be written, or is not a regular file.
  """
  with atomic_write.output_path(path, flag) as temporary:
    _write_text(temporary, page)


def jpeg_uri(jpeg: bytes) -> str:
  """Returns JPEG bytes as a data: URI."""
  return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
