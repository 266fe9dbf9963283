"""Tables: locations and errors of rows, and what spreadsheets write."""

import pytest
from etils import epath

from clipvip_jax.data.engine.tables import read_csv
from clipvip_jax.utils.errors import UserError


def test_csv_rows_have_their_location(tmp_path):
  path = epath.Path(tmp_path / "a.csv")
  path.write_text('id,name\n1,"two\nlines"\n2,x\n')
  assert list(read_csv(path, "id")) == [
    (f"{path}, line 2", {"id": "1", "name": "two\nlines"}),
    (f"{path}, line 4", {"id": "2", "name": "x"}),
  ]
  path.write_text("id, name\n1, x\n")
  assert list(read_csv(path, "name")) == [(f"{path}, line 2", {"id": "1", "name": "x"})]
  with pytest.raises(UserError, match="line 1: no column text; the file has id, name"):
    list(read_csv(path, "id", "text"))


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b'id,name\n\n1,"two\nlines"\n2\n', r"line 5: expected 2 columns \(id, name\), got 1"),
    (b'id,name\n1,x\n2,"open\n3,y\n', "line 3: invalid CSV"),
    (b"id,name\n" + b"1,x\n" * 5000 + b"2,\xff\n", "line 5002: not UTF-8"),
    (b"id,name,name\n1,x,y\n", "line 1: several columns name"),
    (b"id,name,n,n\n1,x,y,z\n", "line 1: several columns n;"),
    (b"id;nome\n1;x\n", "line 1: no column name; the file has id, nome"),
    (b"id,name\n1,x,y\n", r"line 2: expected 2 columns \(id, name\), got 3"),
    (b"id,name\n1,caf\xe9\n", "line 2: not UTF-8 .*; re-encode the file: iconv -f WINDOWS-1252"),
    ("id,name\n1,x\n".encode("utf-16"), "is UTF-16 or UTF-32, not UTF-8; re-encode it: iconv"),
    ("id,name\n1,x\n".encode("utf-16-le"), "is UTF-16 or UTF-32, not UTF-8"),
    (b"", "line 1: no column id, name"),
  ],
)
def test_errors_of_csv_name_the_line(tmp_path, content, words):
  path = epath.Path(tmp_path / "a.csv")
  path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    list(read_csv(path, "id", "name"))


def test_csv_of_old_spreadsheets_ends_lines_with_cr(tmp_path):
  (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid,name\r1,x\r")
  assert list(read_csv(epath.Path(tmp_path / "a.csv"), "id")) == [
    (f"{tmp_path}/a.csv, line 2", {"id": "1", "name": "x"})
  ]


@pytest.mark.parametrize(
  "content",
  [
    "id,name\n1,a\n2,b; c\n",
    'id;name\r\n1;a\r\n2;"b; c"\r\n',
    "id\tname\n1\ta\n2\tb; c\n",
    "sep=|\r\nid|name\r\n1|a\r\n2|b; c\r\n",
    '\n\n id , "name"\n1, a\n 2 , "b; c"\n',
    ",id,name,,\n0,1,a,,\n,,,,\n1,2,b; c,,\n,,,,\n,,,,\n",
    "id,name\n1,a,\n2,b; c,,\n",
    '"id, or key";id;name\n;1;a\n;2;"b; c"\n',
  ],
)
def test_forms_of_spreadsheets(tmp_path, content):
  (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
  rows = [row for _, row in read_csv(tmp_path / "a.csv", "id", "name")]
  assert [(row["id"], row["name"]) for row in rows] == [("1", "a"), ("2", "b; c")]
  assert not any("" in row for row in rows)


def test_a_cell_may_be_as_long_as_a_transcript(tmp_path):
  (tmp_path / "a.csv").write_text(f'id,text\n007,"{"word " * 100_000}"\n1e5,x\n')
  assert [(row["id"], len(row["text"])) for _, row in read_csv(tmp_path / "a.csv", "id")] == [
    ("007", 499_999),
    ("1e5", 1),
  ]
