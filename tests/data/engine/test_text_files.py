"""Lines of text files; their errors are tested with `tables.read_csv` and `json_files`."""

from clipvip_jax.data.engine.text_files import read_lines


def test_lines_keep_their_ends(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\rb\r\nc\nd")
  assert list(read_lines(tmp_path / "a.txt")) == ["a\r", "b\r\n", "c\n", "d"]
  assert list(read_lines(tmp_path / "a.txt", newline="\n")) == ["a\rb\r\n", "c\n", "d"]
