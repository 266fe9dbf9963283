"""Checks that several evaluated models are runs of one experiment, so that their mean and deviation are meaningful."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.evaluation.targets import EvaluationTarget
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

_ABSENT = "absent"
# Fields that configurations of earlier versions lack, and the values that they had.
_DEFAULTS = {"data.crop": "squash", "data.pixels": "float32"}
_MAY_DIFFER = {"seed", "data.prepare", "data.tokenizer", "model.attention"}


def check_comparable(targets: Sequence[EvaluationTarget]) -> None:
  """Refuses models that differ in more than seed and folders.

  Runs may start from runs of their own seeds, as PRETRAIN/seed_0 and PRETRAIN/seed_1: `init_from` may differ by the
  seed.

  Raises:
    UserError: names what differs, with both values.
  """
  for first, second in itertools.combinations(targets, 2):
    _check_pair(first, second)


def _check_pair(first: EvaluationTarget, second: EvaluationTarget) -> None:
  identities = [target.about.get("model", {}).get("identity") for target in (first, second)]
  if identities[0] is not None and identities[0] == identities[1]:
    raise UserError(f"{first.name} and {second.name} are the same weights; name runs of different seeds")
  differences = _differences(first, second)
  if differences:
    details = "; ".join(f"{name} {values}" for name, values in sorted(differences.items()))
    raise UserError(
      f"{first.name} and {second.name} are not runs of one experiment, which may differ in seed and folders only:"
      f" {details}"
    )
  if first.loaded is None and any(
    _queries(first.splits[split]()) != _queries(second.splits[split]()) for split in second.splits
  ):
    raise UserError(
      f"{first.name} and {second.name} hold different clips or queries; evaluate both on the same corpus again"
    )


def _differences(first: EvaluationTarget, second: EvaluationTarget) -> dict[str, str]:
  """Returns {field: both values} of corpus, configuration, splits and runs."""
  pairs = [(first.about.get(name, {}), second.about.get(name, {})) for name in ("corpus", "config")]
  pairs.append(({"splits": list(first.splits)}, {"splits": list(second.splits)}))
  runs = [target.about.get("run") for target in (first, second)]
  if all(runs):
    pairs.append((runs[0], runs[1]))
  elif any(runs):
    pairs.append(({"weights of a run": bool(runs[0])}, {"weights of a run": bool(runs[1])}))
  return {name: values for a, b in pairs for name, values in _config_differences(a, b).items()}


def _config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
  flat_a, flat_b = ({**_DEFAULTS, **dict(config_tree.flatten(config))} for config in (a, b))
  may_differ = _MAY_DIFFER | ({"init_from"} if _same_but_for_seeds(flat_a, flat_b) else set())
  return {
    name: f"{flat_a.get(name, _ABSENT)!r} and {flat_b.get(name, _ABSENT)!r}"
    for name in flat_a.keys() | flat_b.keys()
    if flat_a.get(name) != flat_b.get(name)
    and name not in may_differ
    and not name.startswith("host.")
    and not name.endswith(("data_dir", "cache_dir", "cache_gb"))
  }


def _same_but_for_seeds(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
  """Returns whether two flat configurations start from the same weights, or from runs of their own seeds."""
  if a.get("init_from") == b.get("init_from"):
    return True
  parts = [re.split(r"(\d+)", str(config.get("init_from", ""))) for config in (a, b)]
  seeds = str(a.get("seed")), str(b.get("seed"))
  return all(x == y or (x, y) == seeds for x, y in itertools.zip_longest(*parts))


def _queries(embeddings: SplitEmbeddings) -> tuple[list[str], list[str], list[int]]:
  return embeddings.ids, embeddings.texts, embeddings.labels
