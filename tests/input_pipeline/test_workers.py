"""Worker processes: reuse of shared memory, errors, signals, exit, imports."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import written_corpus
from clip_records import make_batcher, make_records
from project_paths import ROOT
from waiting import wait_until

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.utils.errors import UserError


def make_stream(records, **overrides):
  return WeightedStream(make_batcher(records, num_frames=2, **overrides), RecordSampler(len(records), 2))


@pytest.fixture
def workers():
  """Returns the living processes that a test has started: others may be those of earlier tests."""
  before = {*multiprocessing.active_children()}
  return lambda: {*multiprocessing.active_children()} - before


def test_memory_is_reused_only_after_the_batch_is_released():
  expected = list(iterate_batches([make_stream(make_records())], num_steps=30))
  held, addresses = {}, set()
  for step, batch in enumerate(iterate_batches([make_stream(make_records())], num_steps=30, num_workers=1)):
    addresses.add(batch["video"].ctypes.data)
    if step % 7 == 0:
      held[step] = batch["video"][1, :, 2:]  # a view keeps the memory
    del batch
  assert len(addresses) <= 4 + len(held), "memory is reused"
  for step, view in held.items():
    np.testing.assert_array_equal(view, expected[step]["video"][1, :, 2:])


def test_a_corrupt_record_is_named_with_the_workers_traceback(workers):
  records = make_records(frames=1)
  records[5]["frames"][0] = records[5]["frames"][0][:50]
  with pytest.raises(UserError, match=r"a frame of clip5 .* is not a valid JPEG") as caught:
    list(iterate_batches([make_stream(records)], num_steps=6, num_workers=2))
  assert "decode_jpeg" in caught.value.__notes__[0]
  assert not workers()


def test_a_killed_worker_raises_an_error_instead_of_hanging(workers):
  batches = iterate_batches([make_stream(make_records())], num_steps=10_000, num_workers=2)
  next(batches)
  worker, _ = workers()
  os.kill(worker.pid, signal.SIGKILL)
  with pytest.raises(
    UserError, match=r"data worker \d died with exit code -9.*: reduce host\.num_workers or the batch"
  ):
    list(batches)
  assert not workers()


def test_workers_ignore_sigterm(workers):
  batches = iterate_batches([make_stream(make_records())], num_steps=40, num_workers=1)
  next(batches)
  (worker,) = workers()
  os.kill(worker.pid, signal.SIGTERM)
  assert len(list(batches)) == 39


def test_workers_do_not_import_jax_or_tensorflow(tmp_path, workers):
  """Each import would cost every worker seconds and hundreds of megabytes, and possibly GPU memory."""
  records = [{"id": str(i), "frames": record["frames"]} for i, record in enumerate(make_records())]
  corpus = Corpus(tfds.builder_from_directory(written_corpus.write(tmp_path, records)))
  batches = iterate_batches([make_stream(corpus.records("train"))], num_steps=1000, num_workers=1)
  next(batches)
  (worker,) = workers()
  mapped = pathlib.Path(f"/proc/{worker.pid}/maps").read_text()
  batches.close()
  for library in ("array_record", "cv2", "simplejpeg"):
    assert library in mapped
  for library in ("jaxlib", "libtensorflow", "/tensorflow/", "/torch/"):
    assert library not in mapped


PROGRAM = """
import sys, time
sys.path[:0] = {paths}
import multiprocessing
from clip_records import make_batcher, make_records
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
stream = WeightedStream(make_batcher(make_records(1)), RecordSampler(1, 1))
batches = iterate_batches([stream], num_steps=1000, num_workers=2)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
{end}
"""


def start_program(end):
  """Starts a program that loads a batch with two workers and then runs `end`; returns it and the workers' pids."""
  program = PROGRAM.format(paths=[str(ROOT), str(ROOT / "tests" / "support")], end=end)
  process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return process, [int(number) for number in process.stdout.readline().split()]


def wait_for_exit(pids):
  """Fails if the processes do not exit; those that are being started do so once they run."""
  wait_until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_program_exits_with_an_open_iterator():
  process, workers = start_program("keep = sys.modules['keep'] = batches")
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and not errors, errors
  assert len(workers) == 2
  wait_for_exit(workers)


@pytest.mark.slow
def test_workers_exit_when_their_parent_is_killed():
  process, workers = start_program("time.sleep(100)")
  process.kill()
  process.communicate(timeout=30)
  assert len(workers) == 2
  wait_for_exit(workers)
