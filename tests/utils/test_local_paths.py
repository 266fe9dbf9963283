"""Paths of the local file system."""

import pytest

from clipvip_jax.utils import local_paths


def test_home_is_expanded_and_an_unknown_user_kept(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert [local_paths.expand_user(path) for path in ("~", "~/run", "a~", "/a", "")] == [
    "/home/me",
    "/home/me/run",
    "a~",
    "/a",
    "",
  ]
  assert local_paths.expand_user("~nobody-here/run") == "~nobody-here/run"


def test_all_spellings_have_the_same_real_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "sub").mkdir()
  (tmp_path / "a.mp4").touch()
  (tmp_path / "link.mp4").symlink_to("a.mp4")
  (tmp_path / "linked").symlink_to("sub")
  spellings = ["a.mp4", "./a.mp4", "sub/../a.mp4", f"{tmp_path}/a.mp4", "link.mp4", "linked/../a.mp4", "sub//..//a.mp4"]
  assert {local_paths.real_path(path) for path in spellings} == {f"{tmp_path}/a.mp4"}
  assert local_paths.real_path("link.mp4", follow=False) == f"{tmp_path}/link.mp4"
  assert [local_paths.real_path(path) for path in ("gone.mp4", "sub/..", ".")] == [
    f"{tmp_path}/gone.mp4",
    *[str(tmp_path)] * 2,
  ]


@pytest.mark.parametrize("stored", ["caf\u00e9", "cafe\u0301"])
def test_names_are_found_in_either_unicode_form(tmp_path, stored):
  (tmp_path / stored).mkdir()
  (tmp_path / stored / f"{stored}.mp4").touch()
  for asked in ("caf\u00e9", "cafe\u0301"):
    assert local_paths.find_path(tmp_path / asked / f"{asked}.mp4") == f"{tmp_path}/{stored}/{stored}.mp4"
  gone = f"{tmp_path}/th\u00e9.mp4"
  assert local_paths.find_path(gone) == gone


def test_an_exact_name_is_preferred(tmp_path):
  for name in ("caf\u00e9", "cafe\u0301"):
    (tmp_path / name).touch()
  for name in ("caf\u00e9", "cafe\u0301"):
    assert local_paths.find_path(tmp_path / name) == f"{tmp_path}/{name}"
