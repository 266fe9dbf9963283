"""What only worker processes can get wrong: memory, signals, their end, and what they import."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
import written_corpus
from project_paths import ROOT

from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError


def records(count=12):
  """Frame of record i has the grey value 10 i."""
  return [
    {"id": f"clip{i}", "frames": [simplejpeg.encode_jpeg(np.full((16, 16, 3), 10 * i, np.uint8))], "subtitle": "a b"}
    for i in range(count)
  ]


def source(found, batch_size=2):
  clips = ClipBatcher(found, WordTokenizer.train(["a b"], 8), {"subtitle": "subtitle"}, 2, 8, 5, jitter_seed=0)
  return WeightedStream(clips, RecordSampler(len(found), batch_size))


def test_a_batch_that_is_held_keeps_its_values_and_one_that_is_not_gives_its_memory_back():
  found = list(iterate_batches([source(records())], num_steps=30))
  held, addresses = {}, set()
  for step, batch in enumerate(iterate_batches([source(records())], num_steps=30, num_workers=1)):
    addresses.add(batch["video"].ctypes.data)
    if step % 7 == 0:
      held[step] = batch["video"][1, :, 2:]  # a view of a part
    del batch
  assert len(addresses) <= 4 + len(held), "memory is used again"
  for step, part in held.items():
    np.testing.assert_array_equal(part, found[step]["video"][1, :, 2:])


def test_a_damaged_record_is_named_and_the_traceback_kept():
  damaged = records()
  damaged[5]["frames"][0] = damaged[5]["frames"][0][:50]
  with pytest.raises(UserError, match="a frame of clip5") as raised:
    list(iterate_batches([source(damaged)], num_steps=6, num_workers=2))
  assert "decode_jpeg" in raised.value.__notes__[0]
  assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error_and_no_wait():
  found = iterate_batches([source(records())], num_steps=10_000, num_workers=2)
  next(found)
  (victim, _) = multiprocessing.active_children()
  os.kill(victim.pid, signal.SIGKILL)
  with pytest.raises(UserError, match=r"data worker \d died with exit code -9.*reduce host\.num_workers"):
    list(found)
  assert not multiprocessing.active_children()


def test_workers_leave_a_termination_to_the_process_that_has_to_save():
  found = iterate_batches([source(records())], num_steps=40, num_workers=1)
  next(found)
  (worker,) = multiprocessing.active_children()
  os.kill(worker.pid, signal.SIGTERM)
  assert len(list(found)) == 39


def test_workers_import_neither_jax_nor_tensorflow(tmp_path):
  """Each would cost every worker seconds and hundreds of megabytes, and might take the accelerator."""
  written = Corpus(tfds.builder_from_directory(written_corpus.write(tmp_path, records())))
  found = iterate_batches([source(written.records("train"))], num_steps=1000, num_workers=1)
  next(found)
  (worker,) = multiprocessing.active_children()
  mapped = pathlib.Path(f"/proc/{worker.pid}/maps").read_text()
  assert "array_record" in mapped and "cv2" in mapped and "simplejpeg" in mapped, "these it needs"
  for library in ("jaxlib", "libtensorflow", "/tensorflow/", "/torch/"):
    assert library not in mapped
  found.close()


PROGRAM = """
import sys, time
sys.path[:0] = {paths}
import numpy, simplejpeg, multiprocessing
from clipvip_jax.input_pipeline.batching import ClipBatcher
from clipvip_jax.input_pipeline.pipeline import RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer
jpeg = simplejpeg.encode_jpeg(numpy.zeros((8, 8, 3), numpy.uint8))
clips = ClipBatcher([{{"id": "x", "frames": [jpeg], "a": "a"}}], WordTokenizer.train(["a"], 8), {{"a": "a"}}, 1, 8, 4)
found = iterate_batches([WeightedStream(clips, RecordSampler(1, 1))], num_steps=1000, num_workers=2)
next(found)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
{then}
"""


def started(then):
  root = ROOT
  program = PROGRAM.format(paths=[str(root)], then=then)
  process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  return process, [int(number) for number in process.stdout.readline().split()]


def gone(pids):
  """Whether the processes end within seconds."""
  for _ in range(100):
    if not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
      return True
    time.sleep(0.1)
  return False


def test_a_program_that_ends_with_an_open_iterator_does_not_wait_for_its_workers():
  process, workers = started("keep = sys.modules['keep'] = found")
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and not errors, errors
  assert len(workers) == 2 and gone(workers)


def test_workers_end_with_a_process_that_was_killed():
  process, workers = started("time.sleep(100)")
  process.kill()
  process.communicate(timeout=30)
  assert len(workers) == 2 and gone(workers)
