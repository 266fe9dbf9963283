"""Digests of checkpoints as Orbax commits them, and checks of their position; test_checkpoint.py restores them."""

import contextlib
import json

import jax.numpy as jnp
import pytest

from clipvip_jax.runs import checkpoint_integrity
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.runs.checkpoint_identity import IDENTITY
from clipvip_jax.runs.train_state import TrainState
from clipvip_jax.utils import file_digests


def test_every_file_is_committed_with_its_digest(tmp_path):
  folder = tmp_path / "c"
  checkpoints = Checkpoints(folder, 1)
  checkpoints.save(TrainState(jnp.int32(3), {"w": jnp.arange(9.0)}, {}), {"next_record": 12})
  checkpoints.close()
  (saved,) = folder.glob("[0-9]*")
  files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
  assert set(file_digests.read_digests(saved)) == files - {file_digests.NAME}
  assert [path.name for path in saved.rglob(file_digests.NAME)] == [file_digests.NAME], "one for the whole checkpoint"
  checkpoint_integrity.verify_files(saved)


@pytest.mark.parametrize("kept", ["nothing", "no digest of its own", "no arrays"])
def test_digests_that_do_not_cover_a_checkpoint_are_corrupt(tmp_path, kept):
  for name in ("state/arrays", "data/metadata", f"{IDENTITY}/metadata"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
  file_digests.write_digests(tmp_path, lambda name: kept != "no arrays" or name != "state/arrays")
  if kept == "nothing":
    (tmp_path / file_digests.NAME).write_text("{}")
  if kept == "no digest of its own":
    digests = json.loads((tmp_path / file_digests.NAME).read_text())
    del digests[file_digests.NAME]
    (tmp_path / file_digests.NAME).write_text(json.dumps(digests))
  with pytest.raises(ValueError, match=r"digests\.json (is corrupt|does not list state/arrays)"):
    checkpoint_integrity.verify_files(tmp_path)
  file_digests.write_digests(tmp_path)
  checkpoint_integrity.verify_files(tmp_path)
  (tmp_path / "unlisted").touch()
  checkpoint_integrity.verify_files(tmp_path)


def test_step_state_and_position_must_agree():
  check = checkpoint_integrity.check_position
  check(3, 3, {"next_record": 12}, 4)
  check(3, 3, {"next_record": 13}, None)
  with pytest.raises(ValueError, match="named 3, but its state is of step 2"):
    check(3, 2, {"next_record": 12}, 4)
  with pytest.raises(ValueError, match="record 13, but 3 steps of 4 end at 12"):
    check(3, 3, {"next_record": 13}, 4)
  with pytest.raises(ValueError, match="data position is invalid: True"):
    check(3, 3, True, 4)


def test_all_processes_take_the_verdict_of_process_0(tmp_path, monkeypatch):
  (tmp_path / "a").write_text("a")
  file_digests.write_digests(tmp_path)
  checkpoint_integrity.verify_for_all_processes(tmp_path)
  (tmp_path / "a").write_text("b")
  with pytest.raises(ValueError, match="a does not match its digest"):
    checkpoint_integrity.verify_for_all_processes(tmp_path)
  monkeypatch.setattr(checkpoint_integrity.jax, "process_index", lambda: 1)
  for verdict in ("", "a is missing"):
    monkeypatch.setattr(checkpoint_integrity, "allgather_text", lambda text, verdict=verdict: [verdict, text])
    with contextlib.nullcontext() if not verdict else pytest.raises(ValueError, match="a is missing"):
      checkpoint_integrity.verify_for_all_processes(tmp_path)


@pytest.mark.parametrize("size", [10, 2**21])
def test_a_changed_file_is_found_while_it_is_read_in_place_of_the_readers_error(tmp_path, size):
  path = tmp_path / "a"
  path.write_bytes(bytes(size))
  file_digests.write_digests(tmp_path)
  with checkpoint_integrity.verified(tmp_path):
    assert path.read_bytes() == bytes(size)
  path.write_bytes(bytes(size - 1) + b"x")
  for error in (None, RuntimeError("cannot be decoded")):
    with pytest.raises(ValueError, match="a does not match its digest"), checkpoint_integrity.verified(tmp_path):
      if error:
        raise error
  path.unlink()
  with pytest.raises(ValueError, match="a is missing"), checkpoint_integrity.verified(tmp_path):
    raise AssertionError("nothing is read")


def test_the_error_of_a_reader_of_intact_files_is_raised(tmp_path):
  (tmp_path / "a").write_bytes(bytes(2**21))
  file_digests.write_digests(tmp_path)
  with pytest.raises(RuntimeError, match="other shapes"), checkpoint_integrity.verified(tmp_path):
    raise RuntimeError("other shapes")
