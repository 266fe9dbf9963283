"""Settings that all processes of a launch share; test_distributed_runs.py starts two that differ."""

from clipvip_jax.configs import post_pretrain
from clipvip_jax.distributed import coordination
from clipvip_jax.training import launch_consistency
from clipvip_jax.utils import config_tree, versions


def settings(versions=None, **changes):
  value = post_pretrain.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict(changes)
  return launch_consistency.launch_settings(config_tree.to_json_dict(value), versions or {"jax": "1.0"})


def differences(*processes):
  return launch_consistency.describe_differences(processes)


def test_equal_processes_do_not_differ():
  assert differences(settings(), settings(), settings()) == ""


def test_ignores_fields_of_the_host():
  changes = {"host.num_workers": 3, "host.watchdog_timeout": 0, "data.data_dir": "/elsewhere", "data.prepare": False}
  assert differences(settings(), settings(**changes)) == ""


def test_compares_fields_that_shape_the_program():
  text = differences(settings(), settings(**{"mesh.fsdp": 2, "train.num_microbatches": 4}))
  assert text == "process 1: mesh.fsdp is 2, in process 0 1, train.num_microbatches is 4, in process 0 1"


def test_names_process_field_and_both_values():
  assert differences(settings(), settings(seed=1), settings()) == "process 1: seed is 1, in process 0 0"
  text = differences(settings(), settings(**{"train.batch_size": 8, "host.keep_checkpoints": 1}))
  assert text == "process 1: host.keep_checkpoints is 1, in process 0 3, train.batch_size is 8, in process 0 16"


def test_names_every_process_that_differs():
  text = differences(settings(), settings(seed=1), settings(loss="vs"))
  assert text == 'process 1: seed is 1, in process 0 0; process 2: loss is "vs", in process 0 "vsc_fc"'


def test_compares_packages_and_code():
  other = {**settings({"jax": "1.1"}), "code": "0"}
  assert differences(settings(), other) == (
    f"process 1: code is 0, in process 0 {versions.code_digest()}, version of jax is 1.1, in process 0 1.0"
  )


def test_names_a_field_that_is_absent_in_one_process():
  less = settings()
  del less["loss"]
  assert differences(settings(), less) == 'process 1: loss is absent, in process 0 "vsc_fc"'


def test_a_single_process_needs_no_launch():
  assert coordination.allgather_text("x") == ["x"]
  launch_consistency.check_launch(post_pretrain.get_config("smoke"), {})
