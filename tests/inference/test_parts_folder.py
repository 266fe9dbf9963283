"""The folder of the parts of an index: its lock, and the parts of other jobs."""

import pytest

from clipvip_jax.inference.parts_folder import claim_parts
from clipvip_jax.utils import file_lock
from clipvip_jax.utils.errors import UserError


def test_one_holder_at_a_time(tmp_path):
  folder = tmp_path / "a" / "i.parts"
  with claim_parts(folder, {"videos": "2"}, "--out") as job_file:
    assert job_file.is_file()
    with pytest.raises(UserError, match=r"is in use by another process.*name another --out"):
      claim_parts(folder, {"videos": "2"}, "--out").__enter__()
  with claim_parts(folder, {"videos": "2"}, "--out"):
    pass


def test_parts_of_another_job_are_refused_and_free_the_lock(tmp_path):
  with claim_parts(tmp_path, {"videos": "2"}, "--out"):
    pass
  for _ in range(2):
    with pytest.raises(
      UserError, match=rf"videos.*--workdir, or the same values; or delete {tmp_path}, to embed all again$"
    ):
      claim_parts(tmp_path, {"videos": "3"}, "--workdir").__enter__()


def test_folders_that_cannot_be_written_are_refused_in_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file", tmp_path / "file" / "i.parts"):
    with pytest.raises(UserError, match=r"cannot be written \((File exists|Not a directory)\); name another --out"):
      claim_parts(folder, {}, "--out").__enter__()


def test_file_systems_without_locks_are_accepted_with_a_warning(tmp_path, monkeypatch, caplog):
  def flock(*_):
    raise OSError(file_lock.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(file_lock.fcntl, "flock", flock)
  with claim_parts(tmp_path, {}, "--out"):
    assert "without locks; make sure that no second process" in caplog.text
