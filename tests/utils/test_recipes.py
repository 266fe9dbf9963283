"""Recipes by path or by name."""

import re

import pytest
from project_paths import ROOT

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.recipes import find_recipe, recipe_names

NAMES = [path.stem for path in sorted((ROOT / "configs").glob("*.py")) if "\ndef get_config(" in path.read_text()]


def test_every_file_with_get_config_has_a_name():
  assert recipe_names() == NAMES and {"msrvtt", "post_pretrain", "replication"} <= set(NAMES)


def test_a_name_is_the_file_in_configs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "msrvtt").mkdir()  # a folder of that name does not matter
  assert find_recipe("msrvtt").samefile(ROOT / "configs" / "msrvtt.py")


def test_a_file_precedes_the_recipe_of_that_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "msrvtt").write_text("")
  assert find_recipe("msrvtt").resolve() == tmp_path / "msrvtt"


@pytest.mark.parametrize("name", ["configs/msrvtt.py", "/nowhere/configs/vatex.py", "post_pretrain.py"])
def test_the_error_of_a_path_of_a_clone_has_the_name_that_works_in_any_folder(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  stem = name.rpartition("/")[2].removesuffix(".py")
  message = f"--config={name}: no such file; the recipe of the package is --config={stem}, in any folder"
  with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
    find_recipe(name)
  assert find_recipe(stem).samefile(ROOT / "configs" / f"{stem}.py")


def test_a_relative_path_starts_from_the_given_folder(tmp_path):
  assert find_recipe("configs/msrvtt.py", ROOT) == ROOT / "configs" / "msrvtt.py"
  assert find_recipe(str(ROOT / "configs" / "msrvtt.py"), tmp_path) == ROOT / "configs" / "msrvtt.py"


@pytest.mark.parametrize(
  ("name", "files"),
  [
    ("mine/mrsvtt.py", "mine/common_things.py, mine/msrvtt.py"),
    ("nowhere/a.py", "none"),
    ("common", "none"),
    ("n" * 300, "none"),
  ],
)
def test_the_error_lists_files_and_names(tmp_path, monkeypatch, name, files):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "mine").mkdir()
  for file in ("msrvtt.py", "common_things.py", "common.py", "__init__.py"):
    (tmp_path / "mine" / file).write_text("")
  message = (
    f"--config={name} is neither a file nor the name of a recipe; files in that folder: {files}; recipes: {NAMES[0]}, "
  )
  with pytest.raises(UserError, match=f"^{re.escape(message)}"):
    find_recipe(name)
