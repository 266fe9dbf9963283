"""The history of a run in metrics.jsonl, and its curves."""

import json
import math

import numpy as np
import pytest

from clipvip_jax.runs import metrics_history
from clipvip_jax.utils.log import log


def test_resuming_drops_later_rows_and_a_partial_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  history = metrics_history.History(path, 0)
  for step in (1, 2, 3):
    history.append({"kind": "train", "step": step, "loss": 1.0 / step})
  history.close()
  with path.open("a") as file:
    file.write('{"kind": "tr')
  assert [row["step"] for row in metrics_history.History(path, 2).rows] == [1, 2]
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


GOOD = [{"kind": "train", "step": step, "loss": 1.0} for step in (1, 2, 3, 4)]
CORRUPT = {
  "not UTF-8": b"\x00\xff\xfe",
  "zeros": bytes(200),
  "no JSON": b"XX",
  "deep": b"[" * 100_000,
  "no object": b"5",
  "no step": b'{"kind": "train", "loss": 1}',
  "no integer step": b'{"kind": "train", "step": 1.5}',
  "negative step": b'{"kind": "train", "step": -1}',
  "another kind": b'{"kind": "trein", "step": 1}',
  "no metrics": b'{"kind": "eval", "step": 1, "split": "test"}',
}


@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("line", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_lines_are_kept_aside_and_named_and_lose_no_other_row(tmp_path, caplog, monkeypatch, line, position):
  monkeypatch.setattr(log, "propagate", True)
  lines = [json.dumps(row).encode() for row in GOOD]
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b"\n".join([*lines[:position], line, *lines[position:]]) + b"\n")
  for write in (False, True):
    assert metrics_history.History(path, 9, write=write).rows == GOOD
    assert f"metrics.jsonl: 1 corrupt lines ({position + 1}) are skipped" in caplog.text
    caplog.clear()
  assert (tmp_path / "metrics.jsonl.corrupt").read_bytes() == line + b"\n"
  assert metrics_history.History(path, 9).rows == GOOD and not caplog.text, "the file is valid again"


@pytest.mark.parametrize("case", ["folder", "loop"])
def test_a_file_that_cannot_be_read_leaves_readers_without_curves_and_is_not_replaced(
  tmp_path, caplog, monkeypatch, case
):
  monkeypatch.setattr(log, "propagate", True)
  path = tmp_path / "metrics.jsonl"
  path.mkdir() if case == "folder" else path.symlink_to(path)
  assert metrics_history.History(path, 9, write=False).rows == []
  assert f"{path} cannot be read (" in caplog.text and "there are no curves" in caplog.text
  with pytest.raises(OSError) as raised:
    metrics_history.History(path, 9)
  assert raised.value.filename == str(path) and list(tmp_path.iterdir()) == [path]


def test_a_process_that_does_not_write_keeps_rows_in_memory(tmp_path):
  history = metrics_history.History(tmp_path / "metrics.jsonl", 0, write=False)
  history.append({"kind": "train", "step": 1})
  history.close()
  assert len(history.rows) == 1 and not list(tmp_path.iterdir())


ROWS = [
  {"kind": "train", "step": 2, "loss": 0.5},
  {"kind": "train", "step": 1, "loss": 0.9},
  {"kind": "train", "step": 2, "loss": 0.4},
  {"kind": "train", "step": 3, "loss": math.nan},
  {"kind": "train", "step": 4},
  {"kind": "eval", "step": 2, "split": "test", "metrics": {"plain": {"R@1": 0.25}}},
  {"kind": "eval", "step": 1, "split": "test", "metrics": {"plain": {}}},
  {"kind": "eval", "step": 1, "split": "validation", "metrics": {}},
]


def test_curves_have_increasing_steps_the_later_row_and_finite_values():
  assert metrics_history.train_curve(ROWS) == ([1, 2], [0.9, 0.4])
  assert metrics_history.train_curves(ROWS, "lo") == {"ss": ([1, 2], [0.9, 0.4])}
  by_split = metrics_history.evaluations_by_split(ROWS)
  assert {split: sorted(by_step) for split, by_step in by_split.items()} == {"test": [1, 2], "validation": [1]}
  assert metrics_history.percent_curve(by_split["test"], "plain", "R@1") == ([2], [25.0])


@pytest.mark.parametrize(
  ("tree", "keys", "value"),
  [({"a": {"b": 1}}, ("a", "b"), 1), ({"a": 1}, ("a", "b"), None), ({}, ("a",), None), (None, ("a",), None)],
)
def test_lookup(tree, keys, value):
  assert metrics_history.lookup(tree, keys) == value


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    (1, True),
    (0.5, True),
    (np.float32(2), True),
    (math.inf, False),
    (math.nan, False),
    (np.float32(math.inf), False),
    (None, False),
    ("1", False),
    (10**400, False),
    (-(10**400), False),
  ],
)
def test_is_number(value, expected):
  assert metrics_history.is_number(value) is expected
