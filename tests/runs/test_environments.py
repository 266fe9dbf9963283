"""Versions that a run was trained with: changes are named and kept."""

import pytest

from clipvip_jax.runs.environments import read_environments, record_environment
from clipvip_jax.utils.log import log


@pytest.fixture
def logged(caplog, monkeypatch):
  """The project's log."""
  monkeypatch.setattr(log, "propagate", True)
  return caplog


def test_equal_versions_are_recorded_once_without_a_word(tmp_path, logged):
  for step in (0, 4):
    record_environment(tmp_path, step, {"jax": "1", "code": "a"})
  assert read_environments(tmp_path) == [{"from_step": 0, "versions": {"jax": "1", "code": "a"}}] and not logged.text


def test_changed_added_and_removed_versions_are_named_and_kept(tmp_path, logged):
  record_environment(tmp_path, 0, {"jax": "1", "code": "a", "grain": "3"})
  record_environment(tmp_path, 4, {"jax": "2", "code": "a", "numpy": "5"})
  assert "other versions, which may change its numbers: grain 3 -> absent, jax 1 -> 2, numpy absent -> 5" in logged.text
  record_environment(tmp_path, 8, {"jax": "2", "code": "b", "numpy": "5"})
  assert [(entry["from_step"], entry["versions"]["jax"]) for entry in read_environments(tmp_path)] == [
    (0, "1"),
    (4, "2"),
    (8, "2"),
  ]


def test_environments_of_steps_that_are_repeated_are_dropped(tmp_path):
  for step, version in ((0, "1"), (6, "2"), (4, "1")):
    record_environment(tmp_path, step, {"jax": version})
  assert [entry["from_step"] for entry in read_environments(tmp_path)] == [0]


STEPS = ["Infinity", "-Infinity", "NaN", "-1", "1.5", "1e999", '"x"', '"1"', "null", "true", "[]", "9" * 5000]
VERSIONS = ["null", "[]", '[["a", "b"]]', "[[1, 2]]", '"ab"', '{"jax": 5}', '{"jax": null}', '{"jax": ["1"]}']
CORRUPT = [
  *("", "{", "5", "[1]", '{"from_step": 0, "versions": {}}', "[" * 100_000, '[{"from_step": 1}]'),
  *(f'[{{"from_step": {step}, "versions": {{}}}}]' for step in STEPS),
  *(f'[{{"from_step": 0, "versions": {versions}}}]' for versions in VERSIONS),
]


@pytest.mark.parametrize("content", CORRUPT, ids=lambda content: content[:60])
def test_a_corrupt_file_stops_nothing(tmp_path, logged, content):
  (tmp_path / "environments.json").write_text(content)
  record_environment(tmp_path, 4, {"jax": "1"})
  assert "environments.json is corrupt" in logged.text
  assert read_environments(tmp_path) == [{"from_step": 4, "versions": {"jax": "1"}}]
