"""What processes of a launch must agree on; test_distributed.py has two that do not."""

from clipvip_jax.distributed import coordination
from clipvip_jax.training import launch_consistency
from clipvip_jax.utils import config_tree, versions
from configs import post_pretrain


def described(versions=None, **changes):
  value = post_pretrain.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict(changes)
  return launch_consistency.describe(config_tree.to_json_dict(value), versions or {"jax": "1.0"})


def test_equal_processes_do_not_differ():
  assert launch_consistency.difference([described()] * 3) == ""


def test_what_belongs_to_a_host_may_differ():
  changes = {"host.num_workers": 3, "host.watchdog_timeout": 0, "data.data_dir": "/elsewhere", "data.prepare": False}
  assert launch_consistency.difference([described(), described(**changes)]) == ""


def test_what_shapes_the_program_must_be_the_same():
  found = launch_consistency.difference([described(), described(**{"mesh.fsdp": 2, "train.num_microbatches": 4})])
  assert "mesh.fsdp is 2, in process 0 1" in found and "train.num_microbatches is 4, in process 0 1" in found


def test_another_field_is_named_with_both_values_and_its_process():
  assert (
    launch_consistency.difference([described(), described(seed=1), described()])
    == "process 1: seed is 1, in process 0 0"
  )
  found = launch_consistency.difference([described(), described(**{"train.batch_size": 8, "host.keep_checkpoints": 1})])
  assert found == ("process 1: host.keep_checkpoints is 1, in process 0 3, train.batch_size is 8, in process 0 16")


def test_every_process_that_differs_is_named():
  found = launch_consistency.difference([described(), described(seed=1), described(loss="vs")])
  assert found == 'process 1: seed is 1, in process 0 0; process 2: loss is "vs", in process 0 "vsc_fc"'


def test_other_packages_and_other_code_are_named():
  other = {**described({"jax": "1.1"}), "code": "0"}
  assert launch_consistency.difference([described(), other]) == (
    f"process 1: code is 0, in process 0 {versions.code_digest()}, version of jax is 1.1, in process 0 1.0"
  )


def test_a_field_that_one_process_lacks_is_named():
  less = described()
  del less["loss"]
  assert launch_consistency.difference([described(), less]) == 'process 1: loss is absent, in process 0 "vsc_fc"'


def test_a_single_process_agrees_with_itself():
  assert coordination.allgather_text("x") == ["x"]
  launch_consistency.check(post_pretrain.get_config("smoke"), {})
