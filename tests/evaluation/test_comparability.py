"""Runs of one experiment are accepted; anything else is refused with both values of what differs."""

import dataclasses

import pytest
from embeddings import random_embeddings, target

from clipvip_jax.evaluation.comparability import check_comparable
from clipvip_jax.utils.errors import UserError


def run(seed=0, **fields):
  return {"seed": seed, "init_from": "", "optimizer": {"learning_rate": 0.002}, "data": {"data_dir": "/d"}, **fields}


def test_runs_may_differ_in_seed_folders_and_host():
  check_comparable([target(0), target(1), target(2)])


def test_runs_may_differ_in_the_attention_implementation():
  check_comparable([target(seed, run=run(seed, model={"attention": name})) for seed, name in enumerate("ab")])


def test_models_that_are_not_runs_may_be_compared():
  check_comparable([target(0, run=None), target(1, run=None)])


def test_embeddings_of_earlier_versions_are_of_squashed_frames():
  data = {"data_dir": "/d", "crop": "squash", "pixels": "float32"}
  check_comparable([target(0), target(1, config={"data": {"num_frames": 6, **data}}, run=run(1, data=data))])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"run": run(1, optimizer={"learning_rate": 0.5})}, r"optimizer\.learning_rate 0\.002 and 0\.5$"),
    ({"run": run(1, extra=1)}, "extra 'absent' and 1$"),
    ({"run": None}, "weights of a run True and False$"),
    ({"config": {"data": {"num_frames": 3}}}, r"data\.num_frames 6 and 3$"),
    ({"config": {"data": {"num_frames": 6, "crop": "center"}}}, r"data\.crop 'squash' and 'center'$"),
    ({"config": {"data": {"num_frames": 6, "pixels": "uint8"}}}, r"data\.pixels 'float32' and 'uint8'$"),
    ({"corpus": {"name": "msrvtt/full/1.0.0", "pixels": "as drawn"}}, "name 'msrvtt/9k/1.0.0' and 'msrvtt/full"),
    ({"embeddings": random_embeddings(split="validation")}, r"splits \['test'\] and \['validation'\]$"),
  ],
)
def test_other_differences_are_named_with_both_values(changes, message):
  with pytest.raises(UserError, match=f"run0 and run1 are not runs of one experiment.* {message}"):
    check_comparable([target(0), target(1, **changes)])


def test_the_same_weights_twice_are_refused():
  with pytest.raises(UserError, match="run1 and run1 are the same weights; name runs of different seeds"):
    check_comparable([target(0), target(1), target(1)])


@pytest.mark.parametrize(
  ("first", "second", "comparable"),
  [
    ("exp1/pretrain/seed_0@400", "exp1/pretrain/seed_1@400", True),
    ("exp1/pretrain/seed_0@400", "exp2/pretrain/seed_1@400", False),
    ("exp1/pretrain/seed_0@400", "exp1/pretrain/seed_1@500", False),
    ("exp1/pretrain/seed_1@400", "exp1/pretrain/seed_0@400", False),
    ("clip-laion2B.pt", "clip-laion2B.pt", True),
    ("clip.pt", "", False),
  ],
)
def test_runs_start_from_the_same_weights_or_from_runs_of_their_own_seeds(first, second, comparable):
  targets = [target(seed, run=run(seed, init_from=source)) for seed, source in enumerate((first, second))]
  if comparable:
    check_comparable(targets)
  else:
    with pytest.raises(UserError, match=f"init_from '{first}' and '{second}'$"):
      check_comparable(targets)


@pytest.mark.parametrize("field", ["ids", "texts", "labels"])
def test_embeddings_of_other_clips_or_queries_are_refused(field):
  embeddings = random_embeddings(1)
  changed = dataclasses.replace(embeddings, **{field: list(reversed(getattr(embeddings, field)))})
  with pytest.raises(UserError, match="run0 and run1 hold different clips or queries"):
    check_comparable([target(0), target(1, embeddings=changed)])
