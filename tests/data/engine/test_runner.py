"""Beam options of a build."""

import pytest

from clipvip_jax.data.engine.runner import available_cores, local_options, parse_options
from clipvip_jax.utils.errors import UserError


@pytest.mark.parametrize(("workers", "mode"), [(0, "in_memory"), (1, "in_memory"), (2, "multi_processing")])
def test_local_options_start_processes_only_for_several_workers(workers, mode):
  options = local_options(workers).get_all_options()
  assert options["direct_running_mode"] == mode
  assert workers < 2 or options["direct_num_workers"] == workers


def test_options_of_a_runner_are_passed_on():
  options = parse_options("SparkRunner", "job_name=corpus,streaming", None).get_all_options()
  assert (options["runner"], options["job_name"], options["streaming"]) == ("SparkRunner", "corpus", True)


def test_without_runner_the_number_of_workers_decides():
  assert parse_options("", "", None) is None
  assert parse_options("", "", 3).get_all_options()["direct_num_workers"] == 3
  with pytest.raises(UserError, match="--beam_options=a=b needs --runner; to build on this machine use --workers=N"):
    parse_options("", "a=b", None)


def test_at_least_one_core_is_available():
  assert available_cores() >= 1
