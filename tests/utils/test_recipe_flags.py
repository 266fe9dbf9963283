"""Recipes and overrides on a command line."""

import pytest

from clipvip_jax.configs import post_pretrain
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.recipe_flags import parse_config

SMOKE = "--config=configs/post_pretrain.py:smoke"


def test_overrides_change_fields_in_their_types():
  config = parse_config([SMOKE, "--config.train.batch_size=24", "--config.optimizer.b1=0.5", "--config.loss=vs"])
  assert (config.train.batch_size, config.optimizer.b1, config.loss) == (24, 0.5, "vs")


@pytest.mark.parametrize("flag", [["--config=post_pretrain:smoke"], ["-config", "post_pretrain:smoke"]])
def test_a_name_is_the_recipe_of_that_name_in_any_folder(flag, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert parse_config(flag).to_dict() == post_pretrain.get_config("smoke").to_dict()


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--config=none"],
      "^--config=none is neither a file nor the name of a recipe; .*; recipes: activitynet, ",
    ),
    ([SMOKE, "--config.train.batch=24"], r"config\.train has no field 'batch'; it has: .*batch_size"),
    ([SMOKE, "--config.seed.x=1"], r"config\.seed is a value and has no fields; set it with --config\.seed=VALUE"),
    ([SMOKE, "--config.seed=one"], "one"),
    (["--config=configs/post_pretrain.py:none"], "none"),
    ([SMOKE, "more"], "unexpected argument 'more'; see --help"),
  ],
)
def test_errors_name_what_is_wrong_and_what_exists(argv, message):
  with pytest.raises(UserError, match=message) as raised:
    parse_config(argv)
  assert "\n" not in str(raised.value)


def test_an_error_within_a_recipe_is_reported_by_its_last_line(tmp_path):
  recipe = tmp_path / "recipe.py"
  recipe.write_text("def get_config(_=''):\n  raise ValueError('no such corpus')\n")
  with pytest.raises(UserError, match="no such corpus"):
    parse_config([f"--config={recipe}"])
