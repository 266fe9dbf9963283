"""Placeholders of a failed download are described; content is not."""

import pytest

from clipvip_jax.utils import placeholder_files

GIT_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 605247071\n"
WEB_PAGE = b"<!DOCTYPE html><html>404</html>"


@pytest.mark.parametrize("start", [GIT_LFS, GIT_LFS.replace(b"git-lfs", b"hawser")])
def test_git_lfs_pointer_is_described(start):
  description = placeholder_files.describe(start)
  assert description == "a Git LFS pointer, not its content; run `git lfs pull` in the repository"


@pytest.mark.parametrize(
  "start", [WEB_PAGE, b"\n <html lang=en>", b"\xef\xbb\xbf<!doctype HTML>", b"<?xml version='1.0'?><Error>"]
)
def test_web_page_is_described(start):
  assert placeholder_files.describe(start) == "a web page; download the file itself"


@pytest.mark.parametrize(
  "start", [b"", b"PK\3\4", b'{"version": "https://git-lfs.github.com/spec/v1"}', b"\x40\0\0\0\0\0\0\0{<html", b"<|a|>"]
)
def test_other_content_is_not(start):
  assert placeholder_files.describe(start) == ""
