"""Lists of the videos of a split, as text and as arrays."""

import numpy as np
import pytest
from etils import epath

from clipvip_jax.data.engine.annotations import merge_clips
from clipvip_jax.data.engine.split_lists import listed_clips
from clipvip_jax.utils.errors import UserError

CLIPS = merge_clips(("where", name, "text") for name in ("a", "b.mp4", "c"))


def names(path, content):
  if isinstance(content, str):
    path.write_text(content)
  else:
    np.save(path, content, allow_pickle=True)
  return [(clip.id, clip.texts) for clip in listed_clips(epath.Path(path), CLIPS)]


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("x.txt", "gone\nb\n\n a.avi \n"),
    ("x.txt", "\ufeffgone\r\nb\r\na"),
    ("x.npy", np.array(["gone", "b", "a"])),
    ("x.npy", np.array([b"gone", b"b", b"a"])),
  ],
)
def test_selects_clips_in_the_order_of_the_annotations(tmp_path, file, content):
  assert names(tmp_path / file, content) == [("a", ["text"]), ("b", ["text"]), ("gone", [])]


@pytest.mark.parametrize(
  ("file", "content", "words"),
  [
    ("x.txt", "a\n../../x\n", r"x\.txt, line 2: '\.\./\.\./x' is outside of"),
    ("x.npy", np.array(["a", "/etc/x"]), r"x\.npy, entry 2: '/etc/x' is outside of"),
    ("x.npy", np.array(["a", None]), "cannot be read as an array of names .Object arrays cannot be loaded"),
    ("x.npy", np.array([1, 2]), "int64"),
    ("x.npy", np.array([["a"]]), r"\[1, 1\]"),
  ],
)
def test_refuses_invalid_lists(tmp_path, file, content, words):
  with pytest.raises(UserError, match=words) as refused:
    names(tmp_path / file, content)
  assert "\n" not in str(refused.value)


def test_refuses_corrupt_arrays(tmp_path):
  np.save(tmp_path / "good.npy", np.array(["video1", "video2"]))
  good = (tmp_path / "good.npy").read_bytes()
  header = good.replace(b"(2,)", b"(2, ")  # of which NumPy raises a TokenError
  for content in (b"", b"text", good[:-4], good.replace(b"(2,)", b"(9999999999999,)"), header):
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npy: cannot be read as an array of names .*one name per line"):
      listed_clips(epath.Path(tmp_path / "bad.npy"), CLIPS)
