"""The process that holds the devices: answers, death and hanging; and PyTorch's."""

import signal
import sys
import time

import pytest
import worker_ends

from benchmarks.accelerator_processes import Worker, peer_result
from benchmarks.accelerator_results import Row
from benchmarks.peer import run_peer


def test_a_process_that_dies_or_hangs_is_replaced():
  worker = Worker(worker_ends.serve, "the")
  try:
    first = worker.measure(Row("first"), 60)
    assert first["answer"] == "the first"
    assert worker.measure(Row("second"), 60)["process"] == first["process"]
    dead = worker.measure(Row("kill"), 60)
    assert dead == {"status": "failed", "reason": f"the process ended with signal {int(signal.SIGKILL)}"}
    assert worker.measure(Row("exit"), 60)["reason"] == "the process ended with code 3"
    started = time.monotonic()
    with pytest.raises(TimeoutError):
      worker.measure(Row("hang"), 0.2)
    assert time.monotonic() - started < 30
    assert worker.measure(Row("third"), 60)["answer"] == "the third"
  finally:
    worker.close()


def test_pytorch_does_not_run_on_a_tpu():
  device = {"platform": "tpu", "device": "TPU v6 lite", "dtype": "bfloat16"}
  result = peer_result("python", Row("PyTorch step", "b32", 1), device, 1.0)
  assert result == {"status": "unsupported", "reason": "the PyTorch peer does not run on TPU v6 lite"}


def test_blocks_of_another_width_are_unsupported():
  result = peer_result("python", Row("PyTorch blocks", "l14", 1), {"platform": "gpu", "dtype": "bfloat16"}, 1.0)
  assert result["reason"] == "benchmarks.blocks has blocks of width 768, l14 1024"


@pytest.mark.parametrize(
  ("kind", "size", "devices", "reason"),
  [
    ("PyTorch step", "b32", 8, "the PyTorch peer uses one device, ours 8; set CUDA_VISIBLE_DEVICES=0"),
    ("PyTorch embed", "b16", 2, "the PyTorch peer uses one device, ours 2; set CUDA_VISIBLE_DEVICES=0"),
    ("PyTorch step", "b32+mean", 1, "the PyTorch peer has no variant mean"),
    ("PyTorch embed", "l14+remat+full", 1, "the PyTorch peer has no variant full"),
  ],
)
def test_pytorch_is_not_compared_with_something_else(kind, size, devices, reason):
  device = {"platform": "gpu", "dtype": "bfloat16", "devices": devices}
  assert peer_result("python", Row(kind, size, 8), device, 1.0) == {"status": "unsupported", "reason": reason}


def test_a_peer_that_fails_is_named_with_its_last_line():
  with pytest.raises(RuntimeError, match=r"ended with code 1: ValueError: no such size"):
    run_peer([sys.executable, "-c", "raise ValueError('no such size')"])


def test_a_peer_that_hangs_is_killed_with_its_children():
  started = time.monotonic()
  with pytest.raises(TimeoutError):
    run_peer(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.3)
  assert time.monotonic() - started < 30  # its children held the output open
