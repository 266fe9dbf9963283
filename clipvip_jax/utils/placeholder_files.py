"""Files that a failed download leaves in place of their content: Git LFS pointers and web pages."""

import re

START_BYTES = 256  # of a file, which `describe` needs; pages may begin with white space
_GIT_LFS = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/")
_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


def describe(start: bytes) -> str:
  """Returns what a file that begins with `start` is, and what to do, for a message; "" if it is not a placeholder."""
  if _GIT_LFS.match(start):
    return "a Git LFS pointer, not its content; run `git lfs pull` in the repository"
  if _WEB_PAGE.match(start):
    return "a web page; download the file itself"
  return ""
