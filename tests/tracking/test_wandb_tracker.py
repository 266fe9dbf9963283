"""Weights & Biases without a network: its files hold the run's config, each metric once, and the report."""

import json
import struct

import pytest
from tracked_run import CONFIG, RESULTS, history, track_twice

pytest.importorskip("wandb", reason="wandb is an optional package")
BLOCK, HEADER = 32768, struct.Struct("<IHB")  # of the log format that wandb shares with LevelDB


def records(path):
  """Yields the records of a .wandb file, which wandb's own program alone reads, by wandb's own message type."""
  from wandb.proto.wandb_internal_pb2 import Record

  data = path.read_bytes()
  position, parts = HEADER.size, b""
  while position + HEADER.size <= len(data):
    if BLOCK - position % BLOCK < HEADER.size:
      position += BLOCK - position % BLOCK
      continue
    _, size, kind = HEADER.unpack_from(data, position)
    position += HEADER.size + size
    parts += data[position - size : position]
    if kind in (1, 4):  # complete, or its last part
      yield Record.FromString(parts)
      parts = b""


def values(items):
  return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_a_stopped_and_resumed_run_is_one_run(tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
  monkeypatch.setenv("WANDB_DIR", str(tmp_path))
  workdir = tmp_path / "my run"
  track_twice(["wandb"], workdir, monkeypatch)
  parts = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
  (run_id,) = {path.stem.removeprefix("run-") for path in parts}
  assert len(parts) == 2 and json.loads((workdir / "trackers" / "wandb.json").read_text())["id"] == run_id
  logged, summary, config, names, codes, steps = {}, {}, {}, set(), [], []
  for path in parts:
    for record in records(path):
      names |= {(record.run.project, record.run.display_name)} if record.HasField("run") else set()
      config |= values(record.config.update) | values(record.run.config.update)
      summary |= values(record.summary.update)
      codes += [record.exit.exit_code] if record.HasField("exit") else []
      row = values(record.history.item)
      steps += [row["_step"]] if row else []
      for name in row.keys() & history(workdir).keys():
        logged.setdefault(name, []).append((row["step"], row[name]))
  assert logged == history(workdir)
  assert steps == [*range(1, 10)]  # of both parts: wandb appends the second to the first
  assert CONFIG.items() <= config.items()
  assert RESULTS.items() <= summary.items()
  assert ("clipvip_jax", "my run") in names
  assert codes == [1, 0]  # stopped, finished
  (page,) = parts[1].parent.rglob("*.html")
  assert page.read_text() == (workdir / "report.html").read_text()
