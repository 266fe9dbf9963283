"""Headers of EBML elements."""

import pytest

from clipvip_jax.input_pipeline.byte_file import OddStructureError, open_bytes
from clipvip_jax.input_pipeline.matroska_elements import ebml_header, segment_content


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    ("1a45dfa3 81 00 18538067 84", (11, 4)),
    ("1a45dfa3 4001 00 18538067 01ffffffffffffff", (19, None)),
    ("1a45dfa3 81 00 1f43b675 84", None),
    ("0000", None),
    ("", None),
  ],
)
def test_the_segment_is_found_or_the_structure_is_odd(tmp_path, content, expected):
  (tmp_path / "x").write_bytes(bytes.fromhex(content))
  with open_bytes(tmp_path / "x") as file:
    if expected is not None:
      assert segment_content(file) == expected
      return
    with pytest.raises(OddStructureError):
      segment_content(file)


@pytest.mark.parametrize(("content", "end"), [("a3", 2), ("1f43b675", 5), ("1f43b675 08", 6)])
def test_a_header_that_is_cut_ends_after_the_file(tmp_path, content, end):
  (tmp_path / "x").write_bytes(bytes.fromhex(content))
  with open_bytes(tmp_path / "x") as file:
    assert ebml_header(file, 0) == (0, None, end)
