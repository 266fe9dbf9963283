"""The working folder of a build."""

import pathlib

from etils import epath

from clipvip_jax.data.engine.work import BuildWork


def test_the_log_of_workers_is_a_local_file(tmp_path):
  assert BuildWork(epath.Path(tmp_path), "").worker_log == tmp_path / "workers.log"
  logs = {BuildWork(epath.Path(f"gs://bucket/{name}"), "").worker_log for name in "ab"}
  assert len(logs) == 2 and all(isinstance(log, pathlib.Path) and log.parent.is_dir() for log in logs)
