"""Number of steps of a run, and which runs may be extended."""

import types

import pytest
from small_runs import config, write_identity

from clipvip_jax.training import duration
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

CONSTANT = {"optimizer.schedule": "constant"}


def streams(steps_per_epoch=10, weight=1.0):
  return [types.SimpleNamespace(sampler=types.SimpleNamespace(steps_per_epoch=steps_per_epoch), weight=weight)]


def extend(workdir, old, new):
  """Changes of the run in `workdir`, and of the one that resumes it."""
  config_tree.write_json(workdir / "config.json", config_tree.to_json_dict(config("corpora", **old)))
  return duration.check_extension(config("corpora", **{**old, **new}), workdir, streams())


def test_steps_are_set_or_follow_from_epochs():
  assert duration.total_steps(config("corpora", **{"train.num_steps": 7}).train, streams()) == 7
  assert duration.total_steps(config("corpora", **{"train.num_steps": 0, "train.epochs": 3}).train, streams()) == 30


def test_epochs_of_more_steps_than_an_int32_counts_are_refused():
  train = config("corpora", **{"train.num_steps": 0, "train.epochs": 2**30}).train
  with pytest.raises(UserError, match=r"train\.epochs=1073741824 is more than 2147483647 steps; set train\.num_steps"):
    duration.total_steps(train, streams())


def test_a_new_run_and_one_of_the_same_length_are_no_extension(tmp_path):
  assert duration.check_extension(config("corpora"), tmp_path, streams()) == 0
  assert extend(tmp_path, {"train.num_steps": 20}, {"train.num_steps": 0, "train.epochs": 2}) == 0


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ({**CONSTANT, "train.num_steps": 20}, {"train.num_steps": 40}),
    ({**CONSTANT, "train.num_steps": 0, "train.epochs": 2}, {"train.epochs": 3}),
    ({**CONSTANT, "train.num_steps": 0, "train.epochs": 2}, {"train.num_steps": 21}),
    (
      {"optimizer.schedule": "inverse_sqrt", "optimizer.warmup_ratio": 0.0, "train.num_steps": 20},
      {"train.num_steps": 90},
    ),
    (
      {**CONSTANT, "model.patch_dropout": 0.5, "train.unmasked_fraction": 0.0, "train.num_steps": 20},
      {"train.num_steps": 40},
    ),
  ],
)
def test_a_run_is_extended_if_its_steps_are_those_of_the_longer_run(tmp_path, old, new):
  assert extend(tmp_path, old, new) == 20


@pytest.mark.parametrize(
  ("old", "steps", "message"),
  [
    (
      CONSTANT,
      10,
      r"a run of 20 steps, which cannot become 10: it can only be extended; use train\.num_steps=20, or st",
    ),
    (
      {"optimizer.schedule": "cosine"},
      40,
      r"cannot become 40: with optimizer\.schedule='cosine' .*learning rates depend",
    ),
    (
      {"optimizer.schedule": "linear"},
      21,
      r"with optimizer\.schedule='linear' .*--config\.init_from=.* another --workdir",
    ),
    ({"optimizer.schedule": "inverse_sqrt", "optimizer.warmup_ratio": 0.1}, 40, r"warmup_ratio=0\.1, learning rates"),
    ({**CONSTANT, "model.patch_dropout": 0.5}, 40, r"train\.unmasked_fraction=0\.1 of them had no patch dropout; use"),
  ],
)
def test_other_changes_of_the_number_of_steps_are_refused(tmp_path, old, steps, message):
  with pytest.raises(UserError, match=message):
    extend(tmp_path, {**old, "train.num_steps": 20}, {"train.num_steps": steps})


def test_an_edited_number_of_steps_is_not_that_of_the_checkpoints(tmp_path):
  """A cosine schedule of 20 steps, made 40 in config.json by hand."""
  trained = config_tree.to_json_dict(config("corpora", **{"train.num_steps": 20}))
  write_identity(tmp_path, 4, {"config": trained, "corpus": {}})
  with pytest.raises(UserError, match=r"a run of 20 steps, which cannot become 40: with optimizer\.schedule"):
    extend(tmp_path, {"train.num_steps": 40}, {})
  assert extend(tmp_path, {"train.num_steps": 20}, {}) == 0


@pytest.mark.parametrize("field", ["num_steps", "epochs"])
@pytest.mark.parametrize("value", ["12", None, -1, 12.0, True, [12], {}, float("inf"), float("nan"), 10**30, "absent"])
def test_a_recorded_number_of_steps_that_is_none_is_refused_in_one_line(tmp_path, field, value):
  recorded = config_tree.to_json_dict(config("corpora"))
  recorded["train"][field] = value
  if value == "absent":
    del recorded["train"][field]
  config_tree.write_json(tmp_path / "config.json", recorded)
  with pytest.raises(UserError, match=rf"config\.json records no number of steps \(.*train\.{field}=") as refused:
    duration.check_extension(config("corpora"), tmp_path, streams())
  assert "\n" not in str(refused.value) and "another --workdir" in str(refused.value)


@pytest.mark.parametrize("train", [{"num_steps": 0, "epochs": 0}, {"num_steps": 0, "epochs": duration.MAX_STEPS}])
def test_recorded_epochs_of_no_or_too_many_steps_are_refused_by_file(tmp_path, train):
  config_tree.write_json(tmp_path / "config.json", {"train": train})
  with pytest.raises(UserError, match=rf"^{tmp_path}/config\.json records no number of steps"):
    duration.check_extension(config("corpora"), tmp_path, streams())
