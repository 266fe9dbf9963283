"""Conditions of a search: operators, metadata files, and what is wrong with them."""

import gzip
import json
import unicodedata

import numpy as np
import pytest

from clipvip_jax.inference.filters import Condition, Metadata
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.utils import storage
from clipvip_jax.utils.errors import UserError

ROWS = [
  {"video": "a/1.mp4", "year": 2019, "tags": ["cat", "dog"], "title": "A cat", "public": True},
  {"video": "a/2.mp4", "year": 2020.5, "tags": [], "title": "Two dogs", "public": False},
  {"video": "b/3.mp4", "year": 2021, "tags": ["dog"], "title": None},
]


def index_of(names, segments=""):
  features = np.zeros((len(names), 3), np.float32)
  return VideoIndex(features, names, "fake", "fake-1", bad=[], reasons=[], segments=segments)


@pytest.fixture
def index(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
  return index_of(["a/1.mp4", "./a/2.mp4", str(tmp_path / "b" / "3.mp4"), "b/4.mp4"])


@pytest.mark.parametrize(
  ("conditions", "rows"),
  [
    (["path=a/*"], [0]),
    (["path=*a/*"], [0, 1]),
    (["path!=*a/*"], [2, 3]),
    (["year=2019"], [0]),
    (["year=2019.0"], [0]),
    (["year = 20*"], [0, 1, 2]),
    (["year!=2019"], [1, 2]),
    (["year>2019"], [1, 2]),
    (["year>=2019", "year<2021"], [0, 1]),
    (["year<=2020.5"], [0, 1]),
    (["tags=dog"], [0, 2]),
    (["tags=do?", "path=a*"], [0]),
    (["title=*cat*"], [0]),
    (["title=*dog*"], [1]),
    (["title<B"], [0]),
    (["public=true"], [0]),
    (["year=none"], []),
  ],
)
def test_conditions_select_rows(index, tmp_path, conditions, rows):
  metadata = Metadata(index, tmp_path / "m.jsonl")
  assert np.flatnonzero(metadata.select([Condition.parse(text) for text in conditions])).tolist() == rows


def test_without_conditions_all_rows_are_searched(index):
  assert Metadata(index).select([]) is None


def test_numbers_and_texts_of_csv(index, tmp_path):
  (tmp_path / "m.csv").write_text('\ufeffvideo,views,date\na/1.mp4,9,2020-05-01\na/2.mp4,10,"2021-01-01"\nb/3.mp4,,x\n')
  metadata = Metadata(index, tmp_path / "m.csv")
  for text, rows in (("views>=9", [0, 1]), ("views>9", [1]), ("date<2021", [0]), ("date=2021-*", [1])):
    assert np.flatnonzero(metadata.select([Condition.parse(text)])).tolist() == rows, text


def test_codes_are_texts_and_long_numbers_exact(index, tmp_path):
  (tmp_path / "m.csv").write_text(
    "video;id;n\na/1.mp4;007;1234567890123456789\na/2.mp4;7;1234567890123456780\nb/3.mp4;1_0;12e3\nb/4.mp4;10;12000\n"
  )
  metadata = Metadata(index, tmp_path / "m.csv")
  cases = {
    "id=007": [0],
    "id=7": [1],
    "id=7.0": [1],
    "id!=7": [0, 2, 3],
    "id=10": [3],
    "id>=7": [0, 1, 3],
    "n=12000": [3],
  }
  cases |= {"n=1234567890123456789": [0], "n<1234567890123456785": [1, 2, 3], "n=12e3": [2]}
  for text, rows in cases.items():
    assert np.flatnonzero(metadata.select([Condition.parse(text)])).tolist() == rows, text


def test_texts_are_not_ordered_among_numbers_and_named(index, tmp_path, caplog):
  (tmp_path / "m.csv").write_text('video,views,day\na/1.mp4,"1,234",2020-05-01\na/2.mp4,unknown,12 May\nb/3.mp4,0,x\n')
  metadata = Metadata(index, tmp_path / "m.csv")
  for text, rows in (("views>=0", [2]), ("views<2", [2]), ("day<2021", [0]), ("day>=10", [0])):
    assert np.flatnonzero(metadata.select([Condition.parse(text)])).tolist() == rows, text
  assert "2 values of views are neither numbers nor dates, such as '1,234', and do not fulfil >=0" in caplog.text
  assert np.flatnonzero(metadata.select([Condition.parse("views>a")])).tolist() == [1]


@pytest.mark.parametrize("text", ["views>1,000", "views<=10k", "views>=1_000", "views<unknown"])
def test_numbers_are_not_ordered_among_texts_and_named(index, tmp_path, caplog, text):
  (tmp_path / "m.csv").write_text("video,views,day\na/1.mp4,999,2020-05-01\na/2.mp4,20000,2021\nb/3.mp4,zebra,x\n")
  metadata = Metadata(index, tmp_path / "m.csv")
  assert not metadata.select([Condition.parse(text)])[:2].any()
  assert f"2 values of views are numbers, such as '999', and do not fulfil {text[5:]}" in caplog.text
  assert np.flatnonzero(metadata.select([Condition.parse("day>=2020-06-01")])).tolist() == [1, 2]


def test_null_and_nan_are_no_values_and_lists_may_be_nested(index, tmp_path):
  deep = "[" * 900 + '"z"' + "]" * 900
  values = ("NaN", "null", '[NaN, null, ""]', f'["x", ["y", {deep}]]')
  rows = [f'{{"video": "{name}", "k": {value}}}' for name, value in zip(index.videos, values, strict=True)]
  (tmp_path / "n.jsonl").write_text("\n".join(rows))
  metadata = Metadata(index, tmp_path / "n.jsonl")
  for text, expected in (("k!=1", [3]), ("k=nan", []), ("k=None", []), ("k=z", [3]), ("k=y", [3]), ("k>=a", [3])):
    assert np.flatnonzero(metadata.select([Condition.parse(text)])).tolist() == expected, text


def test_a_value_may_contain_signs(index, tmp_path):
  metadata = Metadata(index)
  assert Condition.parse("path=[=]=x").value == "[=]=x" and Condition.parse("url=a?b=c").value == "a?b=c"
  assert metadata.select([Condition.parse("path = =x")]).sum() == 0


def test_all_segments_of_a_video_have_its_values(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "m.csv").write_text("video,year\na.mp4,2020\nb.mp4,2021\nc.mp4,2022\n")
  metadata = Metadata(index_of(["a.mp4@0-10", "a.mp4@10-20", "b.mp4@0-10"], "10s"), tmp_path / "m.csv")
  assert metadata.select([Condition.parse("year=2020")]).tolist() == [True, True, False]
  assert metadata.select([Condition.parse("path=a.mp4")]).tolist() == [True, True, False]


def test_a_video_with_several_rows_has_the_values_of_all(index, tmp_path, caplog):
  rows = "a/1.mp4,a cat,1\na/1.mp4,a dog,\n./a/1.mp4,a dog,3\na/2.mp4,two dogs,2\n"
  (tmp_path / "m.csv").write_text(f"video,sentence,n\n{rows}")
  with caplog.at_level("INFO", logger="clipvip_jax"):
    metadata = Metadata(index, tmp_path / "m.csv")
  assert "m.csv: 1 videos have several rows; --where selects them by the values of any row" in caplog.text
  for text, expected in (("sentence=*cat*", [0]), ("sentence=*dog*", [0, 1]), ("n<2", [0]), ("n>2", [0]), ("n=2", [1])):
    assert np.flatnonzero(metadata.select([Condition.parse(text)])).tolist() == expected, text


def write_csv(path, *videos):
  rows = "".join(f"{video},{number}\n" for number, video in enumerate(videos))
  path.write_bytes(f"video,n\n{rows}".encode())
  return path


@pytest.mark.parametrize("address", ["gs://b/v/1.mp4", "s3://b/v/1.mp4", "gs://b/v/./w/../1.mp4"])
def test_videos_in_buckets_are_named_by_their_addresses(tmp_path, address):
  scheme = address.partition(":")[0]
  names = [f"{scheme}://b/v/1.mp4@{start}-{start + 1}" for start in (0, 1)] + [f"{scheme}://b/v/2.mp4"]
  metadata = Metadata(index_of(names, "1s"), write_csv(tmp_path / "m.csv", address, "x.mp4"))
  assert metadata.select([Condition.parse("n=0")]).tolist() == [True, True, False]


def test_metadata_in_a_bucket_name_videos_relative_to_it_and_local_ones(bucket, tmp_path):
  videos = [f"{bucket.url}/v/1.mp4", f"{bucket.url}/2.mp4", str(tmp_path / "3.mp4"), f"{bucket.url}/v/4.mp4"]
  rows = ("1.mp4", "../2.mp4", str(tmp_path / "3.mp4"), f"{bucket.url}/v/4.mp4")
  bucket.write("v/m.csv", write_csv(tmp_path / "m.csv", *rows).read_bytes())
  metadata = Metadata(index_of(videos), storage.absolute(f"{bucket.url}/v/m.csv"))
  for number in range(4):
    assert np.flatnonzero(metadata.select([Condition.parse(f"n={number}")])).tolist() == [number]


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_of_a_name_are_equal(tmp_path, monkeypatch, form, other):
  monkeypatch.chdir(tmp_path)
  name = "Caf\u00e9/\u00fcber.mp4"
  index = index_of([unicodedata.normalize(form, name), "b.mp4"])
  metadata = Metadata(index, write_csv(tmp_path / "m.csv", unicodedata.normalize(other, name)))
  assert metadata.select([Condition.parse("n=0")]).tolist() == [True, False]
  for text in ("path=*\u00e9/*", "path=*/?ber.mp4", "path!=b*", "path>Caf\u00e9"):
    selected = metadata.select([Condition.parse(unicodedata.normalize(other, text))])
    assert selected[0] and not (text.startswith("path=") and selected[1]), text


def test_of_two_unicode_forms_in_an_index_each_has_its_own_values(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = [unicodedata.normalize(form, "\u00e9.mp4") for form in ("NFC", "NFD")]
  metadata = Metadata(index_of(names), write_csv(tmp_path / "m.csv", *names))
  assert [metadata.select([Condition.parse(f"n={n}")]).tolist() for n in (0, 1)] == [[True, False], [False, True]]


@pytest.mark.parametrize(
  ("name", "row"), [("m.csv", "video,path\na/1.mp4,x\n"), ("m.jsonl", '{"video": "a/1.mp4", "path": 1}')]
)
def test_a_column_path_is_named_as_ignored(index, tmp_path, caplog, name, row):
  (tmp_path / name).write_text(row)
  metadata = Metadata(index, tmp_path / name)
  assert f"{name}: the column path is ignored" in caplog.text
  assert metadata.select([Condition.parse("path=*1.mp4")]).tolist() == [True, False, False, False]


def test_rows_of_other_videos_are_counted(index, tmp_path, caplog):
  (tmp_path / "m.csv").write_text("video,year\na/1.mp4,2020\nz\x1b.mp4,2021\n")
  with caplog.at_level("INFO", logger="clipvip_jax"):
    Metadata(index, tmp_path / "m.csv")
  assert r"1 of 2 rows name no video of the index, first z\x1b.mp4" in caplog.text


@pytest.mark.parametrize(
  "text", ["", "year", "=2020", "!= x", "year 2020", "year==2020", "year=>2020", "year<>2020", "a!==b"]
)
def test_other_texts_are_no_conditions(text):
  with pytest.raises(
    UserError, match=r"is not a condition; write FIELD=VALUE, .* in quotes for the shell: --where='path"
  ):
    Condition.parse(text)


def test_unknown_fields_are_refused_with_the_known_ones(index, tmp_path):
  with pytest.raises(UserError, match=r"no video has a field 'yeer'; use path, public, tags, title, year, or name"):
    Metadata(index, tmp_path / "m.jsonl").select([Condition.parse("yeer>2020")])


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("m.jsonl", b"[1]\n", r"m\.jsonl, line 1: expected a JSON object"),
    ("m.jsonl", b'{"video": "a/1.mp4"}\n{', r"m\.jsonl, line 2: invalid JSON"),
    ("m.jsonl", b'{"video": "a/1.mp4", "x": 1, "x": 2}', r"line 1: invalid JSON \(the key 'x' occurs twice"),
    ("m.jsonl", b'{"year": 1}', r"m\.jsonl, line 1: no 'video'"),
    ("m.jsonl", b'{"video": 3}', r"m\.jsonl, line 1: no 'video'"),
    ("m.jsonl", b'{"video": "z.mp4"}', "none of its 1 rows names a video of the index, first z.mp4"),
    ("m.jsonl", b"", "none of its 0 rows names a video of the index; "),
    ("m.csv", b"video,year\na/1.mp4\n", "line 2: expected 2 columns"),
    ("m.csv", b"video,year\na/1.mp4,1,2\n", "line 2: expected 2 columns"),
    ("m.csv", b"video,year,year\na/1.mp4,1,2\n", "line 1: several columns year; give each column its own name"),
    ("m.tsv", b"name\na/1.mp4\n", r"m\.tsv, line 1: no column video; the file has name"),
    ("m.csv", b"video\n\xff\n", r"m\.csv, line 2: not UTF-8 .*; re-encode the file: iconv"),
    ("m.csv", "video\n".encode("utf-16"), r"m\.csv: the file is UTF-16 or UTF-32, not UTF-8; re-encode it"),
    ("m.jsonl", gzip.compress(b"{}", mtime=0), r"m\.jsonl: the file is compressed \(gzip\); decompress it"),
    ("none.csv", None, r"none\.csv: cannot be read \(No such file"),
  ],
)
def test_wrong_metadata_is_refused_in_one_line(index, tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message) as refused:
    Metadata(index, tmp_path / name)
  assert "\n" not in str(refused.value)
