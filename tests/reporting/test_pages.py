"""Rendering and atomic writing of pages."""

import base64

import jinja2
import pytest

from clipvip_jax.reporting import pages
from clipvip_jax.utils.errors import UserError


def render(**values):
  return pages.render("search.html.jinja", **{"results": [], **values})


def test_values_are_escaped():
  hits = [{"video": "<b>.mp4", "moment": "", "score": "0.5", "frames": []}]
  page = render(results=[{"query": "<script>alert('x')</script>", "hits": hits}])
  assert "<script" not in page and "<b>" not in page and "&lt;b&gt;.mp4" in page


def test_content_security_policy_allows_only_inline_styles_and_data_images():
  assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in render()


def test_missing_value_fails():
  with pytest.raises(jinja2.UndefinedError, match="results"):
    pages.render("search.html.jinja")


def test_lone_surrogates_are_replaced(tmp_path):
  pages.save_page(tmp_path / "page.html", "a \ud83d b\n")
  assert (tmp_path / "page.html").read_bytes() == b"a ? b\n"


def test_failed_write_keeps_the_file_and_leaves_no_temporary_file(tmp_path):
  path = tmp_path / "page.html"
  path.write_text("old")
  with pytest.raises(TypeError):
    pages.save_page(path, None)
  assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_write_page_replaces_the_target_of_a_link(tmp_path):
  target, link = tmp_path / "target.html", tmp_path / "link.html"
  target.write_text("old")
  link.symlink_to(target)
  pages.write_page(link, "new", "--html")
  assert link.is_symlink() and target.read_text() == "new"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("", "--html=.* is not a regular file; name"),
    ("none/page.html", r"--html=.*page\.html cannot be written \(No such"),
  ],
)
def test_unwritable_paths_name_the_flag_the_reason_and_a_remedy(tmp_path, name, message):
  with pytest.raises(UserError, match=message):
    pages.write_page(tmp_path / name, "page", "--html")


def test_jpeg_uri():
  uri = pages.jpeg_uri(b"\xff\xd8\x00")
  assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8\x00"
