"""Recipes by path or by name."""

import contextlib
import pathlib

from clipvip_jax.utils.errors import UserError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
_SHARED = ("__init__", "common", "fine_tuning", "sizes", "variants")  # modules of that folder that are not recipes


def recipe_names() -> list[str]:
  """Returns the names of the recipes that the package contains, such as "post_pretrain"."""
  return [path.stem for path in _recipe_files(FOLDER)]


def find_recipe(name: str, base: pathlib.Path | None = None) -> pathlib.Path:
  """Returns the file of a recipe.

  Args:
    name: path of a file or, if there is no such file, the name of a recipe of the package.
    base: folder that relative paths start from; None: the working directory.

  Raises:
    UserError: there is neither; names the package's recipe of that file name, or lists files and names.
  """
  path = (base or pathlib.Path()) / name
  with contextlib.suppress(OSError):  # the name is too long
    if path.is_file():
      return path
  if name in recipe_names():
    return FOLDER / f"{name}.py"
  if (stem := path.stem) in recipe_names() and path.suffix == ".py":
    raise UserError(f"--config={name}: no such file; the recipe of the package is --config={stem}, in any folder")
  files = [str(pathlib.Path(name).parent / file.name) for file in _recipe_files(path.parent)]
  raise UserError(
    f"--config={name} is neither a file nor the name of a recipe; files in that folder: {', '.join(files) or 'none'};"
    f" recipes: {', '.join(recipe_names())}"
  )


def _recipe_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.glob("*.py") if path.stem not in _SHARED)
