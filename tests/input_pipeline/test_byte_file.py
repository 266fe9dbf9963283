"""Random access to the bytes of a file."""

from clipvip_jax.input_pipeline.byte_file import open_bytes


def test_reads_and_finds_what_the_file_holds(tmp_path):
  content = bytes(range(256)) * 1000
  content = content[:65_534] + b"mark" + content[65_538:]  # on the border of two chunks
  (tmp_path / "x").write_bytes(content)
  with open_bytes(tmp_path / "x") as file:
    for position, count in ((0, 9), (4090, 20), (8, 4), (9000, 9000), (len(content) - 3, 9)):
      assert file.read(position, count) == content[position : position + count]
    assert (file.read(-1, 4), file.read(len(content), 4), file.size) == (b"", b"", len(content))
    assert file.number(2, 2) == 0x0203 and file.number(2, 2, "little") == 0x0302
    assert [file.find(b"mark", position) for position in (0, 65_534, 65_535)] == [65_534, 65_534, file.size]
