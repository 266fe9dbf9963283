"""The Beam job: errors of shards end the build in words, errors of Beam are raised, and no shard starts after one."""

import _thread
import contextlib
import json
import pathlib
import sys
import tempfile
import threading

import corpora
import pytest
from apache_beam.runners.runner import PipelineRunner
from etils import epath

from clipvip_jax.data.engine import beam_job
from clipvip_jax.data.engine.clip_record import RecordSpec
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import write_plan
from clipvip_jax.data.engine.runner import local_options
from clipvip_jax.data.engine.shards import is_written
from clipvip_jax.data.engine.work import BuildWork
from clipvip_jax.utils.errors import UserError

SPEC = RecordSpec(FrameSettings(fps=2), "pyav", 30.0, {})


@pytest.fixture
def job(tmp_path, monkeypatch):
  """(shards, plan, work) of four clips in two shards; no test may leave a temporary folder."""
  temporary = tmp_path / "temporary"
  temporary.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(temporary))
  video = corpora.write_video(tmp_path / "x.mp4")
  plan = write_plan([Item(name, "train", str(video), ("t",)) for name in "abcd"], (), epath.Path(tmp_path / "plan"))
  work = BuildWork(epath.Path(tmp_path / "shards"), "settings", clips_per_shard=2)
  work.folder.mkdir()
  yield list(plan.shards(work.clips_per_shard)), plan, work
  assert not list(temporary.iterdir())


def run(job, runner=None):
  shards, plan, work = job
  beam_job.run(shards, plan, SPEC, work, runner, local_options(0))


def test_all_shards_are_written_and_original_hooks_restored(job):
  hook = threading.excepthook
  run(job)
  shards, _, work = job
  assert len(shards) == 2 and all(is_written(shard, work) for shard in shards)
  assert threading.excepthook is hook and not work.error_file.exists()


def test_user_error_of_a_shard_is_saved_for_the_caller(job, monkeypatch):
  def fail(shard, *rest):
    raise UserError(f"shard {shard.index} is not writable")

  monkeypatch.setattr(beam_job, "build_shard", fail)
  run(job)
  assert json.loads(job[2].error_file.read_text())["error"].endswith("is not writable")


def test_no_shard_starts_after_an_error(job):
  shards, _, work = job
  work.error_file.write_text(json.dumps({"error": "full disk"}))
  run(job)
  assert not any(is_written(shard, work) for shard in shards)


def test_other_errors_of_a_shard_are_raised(job, monkeypatch):
  monkeypatch.setattr(beam_job, "build_shard", lambda *rest: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run(job)


def test_errors_of_the_runner_are_raised(job):
  class Unreachable(PipelineRunner):
    def run_pipeline(self, pipeline, options):
      raise ConnectionError("the cluster is unreachable")

  with pytest.raises(ConnectionError, match="unreachable"):
    run(job, Unreachable())


def test_death_of_a_worker_process_ends_the_build(job):
  class Dying(PipelineRunner):
    """Reports a dead worker in a thread and then waits forever, as Beam's local runner does."""

    def run_pipeline(self, pipeline, options):
      def report():
        raise RuntimeError("Worker subprocess exited with return code -9")

      threading.Thread(target=report).start()
      threading.Event().wait()

  with pytest.raises(UserError, match=r"a worker process of the build was killed.*fewer --workers"):
    run(job, Dying())


def test_ctrl_c_ends_the_build(job):
  class Interrupting(PipelineRunner):
    def run_pipeline(self, pipeline, options):
      _thread.interrupt_main()
      threading.Event().wait()

  with pytest.raises(KeyboardInterrupt):
    run(job, Interrupting())


@pytest.mark.parametrize("is_worker", [True, False])
def test_a_worker_reports_an_error_although_its_log_is_full(job, monkeypatch, is_worker):
  """Beam prints the error first, and would wait forever for a worker that cannot."""
  _, plan, work = job
  shards = beam_job._BuildShard(plan, SPEC, work)
  shards._parent += is_worker
  with pathlib.Path("/dev/full").open("w", buffering=1) as full:
    monkeypatch.setattr(sys, "stderr", full)
    shards.setup()
    shards.teardown()
    if is_worker:
      print("an error", file=sys.stderr, flush=True)
    assert (sys.stderr is full) != is_worker
    monkeypatch.undo()
    with contextlib.suppress(OSError):
      full.close()
