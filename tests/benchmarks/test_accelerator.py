"""The benchmark of an accelerator: plan, time, failures, resumption, and a complete run of a tiny size."""

import json
import sys
import types

import pytest

from benchmarks import accelerator
from benchmarks.accelerator_processes import OURS
from benchmarks.accelerator_results import Results, Row
from benchmarks.accelerator_rows import PARTS
from clipvip_jax.utils.errors import UserError

GPU = {
  "device": "NVIDIA H100 80GB HBM3",
  "platform": "gpu",
  "devices": 1,
  "dtype": "bfloat16",
  "jax": "0.11",
  "code": "abc",
  "peak_flops": 989.5e12,
  "attention": ["xla", "cudnn", "fused"],
  "automatic": "cudnn",
}


class Devices:
  """Answers rows by a function of the row, without a process."""

  def __init__(self, answer=lambda row: None, device=GPU):
    self.rows, self._answer, self._device = [], answer, device

  def measure(self, row, seconds):
    if row.kind == "device":
      return {"status": "measured", **self._device}
    self.rows.append(row)
    return self._answer(row) or {"status": "measured", "seconds": row.batch / 100, "clips_per_second": 100.0}

  def close(self):
    self.rows.append("closed")


def session(path, devices, *flags):
  """Runs a session; returns its rows by name."""
  options = accelerator.parse([f"--out={path}", "--minutes=1", "--largest_batch=128", *flags])
  accelerator.Session(options, devices, Results(path)).run()
  report = json.loads(path.read_text())
  names = [row["name"] for row in report["rows"]]
  assert len(set(names)) == len(names)
  return {row["name"]: row for row in report["rows"]}


def test_the_most_important_rows_come_first(tmp_path):
  devices = Devices()
  rows = list(session(tmp_path / "out.json", devices))
  first = ["step b32 batch 64", "profile b32 batch 64", "step b16 batch 32", "profile b16 batch 32"]
  assert rows[:6] == [*first, "PyTorch step b32 batch 64 compile", "PyTorch step b16 batch 32 compile"]
  assert {f"{part} {size}" for part in PARTS for size in ("b32 batch 64", "b16 batch 32", "l14 batch 8")} <= set(rows)
  assert rows.index("step b16 batch 32 fused") < rows.index("step l14 batch 8") < rows.index("step b32 batch 128")
  assert {row.kind for row in devices.rows} == set(accelerator.KINDS) - set(OURS)  # no PyTorch


def test_whole_steps_compare_the_kernels_that_the_device_has(tmp_path):
  def answer(row):
    if row.kind == "attention" and (row.option, row.size) in (("cudnn", "b32"), ("fused", "b16")):
      return {"status": "unsupported", "reason": "no kernel"}
    return None

  rows = session(tmp_path / "out.json", Devices(answer), "--sizes=b32,b16")
  steps = [name for name, row in rows.items() if row["kind"] == "step" and row["option"]]
  # "auto" is XLA where cuDNN has no kernel.
  assert steps == ["step b32 batch 64 fused", "step b16 batch 32 xla"]
  assert rows["attention b32 batch 64 cudnn"]["reason"] == "no kernel"


def test_batches_are_halved_until_a_step_fits_and_doubled_until_the_memory_ends(tmp_path):
  def answer(row):
    return {"status": "out of memory", "reason": "RESOURCE_EXHAUSTED"} if row.batch > 32 else None

  rows = session(tmp_path / "out.json", Devices(answer), "--sizes=b32,b16,l14", "--rows=step")
  batches = {size: [row["batch"] for row in rows.values() if row["size"] == size] for size in ("b32", "b16", "l14")}
  assert batches == {"b32": [64, 32], "b16": [32, 64], "l14": [8, 16, 32, 64]}
  assert rows["step l14 batch 64"]["status"] == "out of memory"


def test_a_step_that_fails_is_not_profiled(tmp_path):
  devices = Devices(lambda row: {"status": "failed", "reason": "INTERNAL"} if row.size == "b32" else None)
  rows = session(tmp_path / "out.json", devices, "--sizes=b32,b16", "--rows=step,profile")
  assert list(rows) == ["step b32 batch 64", *(f"{name} b16 batch 32" for name in ("step", "profile")), *list(rows)[3:]]
  assert "step b16 batch 64" in rows and "step b32 batch 128" not in rows


def test_nothing_is_lost_when_rows_hang_and_the_time_is_up(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(accelerator, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

  class Hanging(Devices):
    def measure(self, row, seconds):
      if row.kind not in ("profile", "attention"):
        return super().measure(row, seconds)
      now[0] += seconds
      raise TimeoutError

  path = tmp_path / "out.json"
  rows = session(path, Hanging(), "--sizes=b32")  # a minute, of which one row may take half
  assert rows["step b32 batch 64"]["seconds"] == 0.64
  assert (
    rows["profile b32 batch 64"] | {"status": "failed", "reason": "no result after 30s"} == rows["profile b32 batch 64"]
  )
  assert rows["attention b32 batch 64 xla"]["reason"] == "out of time after 30s"
  skipped = [row for row in rows.values() if row.get("reason") == "out of time"]
  assert {row["kind"] for row in skipped} >= {*PARTS, "embed", "input", "blocks"}

  devices = Devices()
  resumed = session(path, devices, "--sizes=b32")
  assert Row("step", "b32", 64) not in devices.rows  # measured by the first call
  assert Row("profile", "b32", 64) in devices.rows and Row("forward", "b32", 64) in devices.rows
  assert all(row["status"] == "measured" for row in resumed.values() if row["kind"] not in OURS)
  assert resumed["step b32 batch 64"] == rows["step b32 batch 64"]


def test_rows_of_an_earlier_call_stay_in_the_file_while_another_runs(tmp_path):
  path = tmp_path / "out.json"
  session(path, Devices(), "--sizes=b16", "--rows=step")
  rows = session(path, Devices(), "--sizes=b32", "--rows=step")
  assert {"step b16 batch 32", "step b16 batch 64", "step b32 batch 64"} <= set(rows)


def write_peer(path, text):
  """Writes a program in the place of PyTorch's Python."""
  path.write_text(f"#!/bin/sh\n{text}\n")
  path.chmod(0o755)
  return str(path)


def test_pytorch_is_compared_with_the_same_step_and_its_failures_are_rows(tmp_path):
  text = 'case "$*" in *--model=b16*) echo "CUDA out of memory. Tried" >&2; exit 1;; *sdpa*) echo no; exit;; esac\n'
  text += """echo "$@" >> "$0.calls"; echo '{"seconds": 1.28, "forward_s": 1, "forward_backward_s": 2, "loss": 3}'"""
  peer = write_peer(tmp_path / "python", text)
  devices = Devices()
  rows = session(tmp_path / "out.json", devices, "--sizes=b32,b16", f"--peer={peer}")
  assert rows["PyTorch step b32 batch 64 compile"]["speedup"] == pytest.approx(1.28 / 0.64)
  assert rows["PyTorch step b32 batch 64 compile"]["peer"]["loss"] == 3
  assert rows["PyTorch step b16 batch 32"]["status"] == "out of memory"
  assert rows["PyTorch blocks b32 batch 64 sdpa"]["status"] == "failed"
  assert "printed no JSON" in rows["PyTorch blocks b32 batch 64 sdpa"]["reason"]
  calls = (tmp_path / "python.calls").read_text().splitlines()
  step = "--model=b32 --batch=64 --frames=12 --what=step --text_length=70 --dtype=bfloat16 --device=cuda --compile"
  assert calls[0].partition("torch_step.py ")[2] == step
  assert devices.rows[devices.rows.index("closed") - 1] == Row("profile", "b16", 32)  # the memory is free for PyTorch
  assert "ours is 2.00 x as fast" in (tmp_path / "out.md").read_text()


def test_without_pytorch_rows_say_so(tmp_path):
  row = session(tmp_path / "out.json", Devices(), "--sizes=b32")["PyTorch step b32 batch 64 compile"]
  assert row["status"] == "skipped" and row["reason"] == "--peer is not set"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--sizes=b33"], r"size b33: unknown variant 'b33'; this recipe has: b32, .*, and tiny alone"),
    (["--sizes=b32,"], r"--sizes=b32, has an empty or a repeated size; name each once"),
    (["--sizes=b32,l14,b32"], r"has an empty or a repeated size"),
    (["--rows=stepp"], r"--rows=stepp is unknown; allowed: step, "),
    (["--minutes=0"], r"--minutes=0.0 is out of range"),
    (["--out=missing/out.json"], r"--out=missing/out.json: the folder does not exist; create it"),
  ],
)
def test_bad_options_end_before_the_start(flags, message):
  with pytest.raises(UserError, match=message):
    accelerator.parse(["--out=out.json", *flags])


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_the_first_row(tmp_path):
  devices = Devices(device={**GPU, "devices": 8})
  with pytest.raises(UserError, match=r"--batch=12 is not divisible by 8 devices; use 8 or 16"):
    session(tmp_path / "out.json", devices, "--batch=12")
  assert not devices.rows


@pytest.mark.parametrize(
  ("peer", "message"),
  [
    ("gone/python", r"--peer=.*gone/python: .*No such file.*; use the Python of an environment with PyTorch"),
    ("out.txt", r"--peer=.*out.txt: .*Permission denied.*; use the Python"),
    ("python", r"--peer=.*python is not a Python with PyTorch; install torch"),
  ],
)
def test_a_peer_without_pytorch_is_refused_before_the_devices_are_taken(tmp_path, monkeypatch, peer, message):
  (tmp_path / "out.txt").touch()
  write_peer(tmp_path / "python", f'exec {sys.executable} -S "$@"')  # without site-packages
  monkeypatch.setattr(accelerator, "Worker", None)
  with pytest.raises(UserError, match=message):
    accelerator.main([f"--out={tmp_path / 'out.json'}", f"--peer={tmp_path / peer}"])


def test_a_file_of_another_device_is_refused(tmp_path):
  path = tmp_path / "out.json"
  session(path, Devices(), "--rows=step")
  text = path.read_text()
  with pytest.raises(UserError, match=r"has rows of device NVIDIA H100 80GB HBM3, not TPU v6 lite; use another name"):
    session(path, Devices(device={**GPU, "device": "TPU v6 lite"}))
  assert path.read_text() == text
  path.write_text("{}")
  with pytest.raises(UserError, match=r"is not a file of benchmarks.accelerator; use another name"):
    session(path, Devices())


def test_a_machine_without_devices_is_an_error(tmp_path):
  class NoDevices(Devices):
    def measure(self, row, seconds):
      return {"status": "failed", "reason": "no driver"}

  with pytest.raises(UserError, match=r"JAX has no device \(no driver\); install"):
    session(tmp_path / "out.json", NoDevices())


@pytest.mark.unoptimized
def test_a_tiny_size_runs_from_start_to_end_on_a_cpu(tmp_path, capsys):
  path = tmp_path / "cpu.json"
  accelerator.main([f"--out={path}", "--sizes=tiny", "--batch=2", "--largest_batch=2", "--minutes=8"])
  report = json.loads(path.read_text())
  rows = {row["name"]: row for row in report["rows"]}
  kinds = {row["kind"] for row in rows.values() if row["status"] == "measured"}
  assert kinds == set(accelerator.KINDS) - {"blocks", *OURS}  # twelve blocks of ViT-B are not tiny
  assert "needs model.dtype=bfloat16 and an NVIDIA GPU" in rows["attention tiny batch 2 cudnn"]["reason"]
  assert report["device"]["platform"] == "cpu" and "share_of_peak" not in rows["step tiny batch 2"]
  step = rows["step tiny batch 2"]
  assert step["seconds"] > 0 and step["memory"] > 0
  assert step["clips_per_second"] == pytest.approx(2 / step["seconds"])
  assert rows["compile tiny batch 2"]["from_cache"]
  modules = [kernel["module"] for kernel in rows["profile tiny batch 2"]["kernels"]]
  assert any(module.startswith("vision/transformer/block/") for module in modules)
  printed = capsys.readouterr().out
  assert printed.strip().endswith(path.with_suffix(".md").read_text().strip())
  assert "no peak is known for this device" in printed
