"""Miniatures of image corpora: tar files in WebDataset layout, and a table of paths."""

import io
import tarfile

import corpora
import numpy as np
import pytest

from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.engine.records import encode_jpeg
from clipvip_jax.data.image_text.image_text_dataset_builder import Builder
from clipvip_jax.utils.errors import UserError

LONG = "word " * 10_000
ODD = "tab\there, a \u0007 bell, a \U0001f600 face"


def picture(seed=0, height=48, width=64):
  return encode_jpeg(corpora.moving_frames(1, seed, height, width)[0], 90)


def png():
  import cv2

  return cv2.imencode(".png", corpora.moving_frames(1)[0])[1].tobytes()


def pair(key, seed):
  return {f"{key}.jpg": picture(seed), f"{key}.json": {"caption": f"image {seed}"}, f"{key}.txt": f"image {seed}"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Two tar files with nine valid images, and one of each kind of skipped clips."""
  folder = tmp_path_factory.mktemp("images")
  first = {
    "0001.json": {"caption": "of JSON", "status": "success"},
    "0001.jpg": picture(1),
    "0002.PNG": png(),
    "0002.txt": ODD,
    "../0003.jpg": picture(3, 300, 400),
    "../0003.txt": LONG,
    "0004.jpg": picture(4),
    "0005.jpg": picture(5),
    "0005.json": {"caption": None},
    "0006.jpg": picture(6)[:-300],
    "0006.txt": "cut",
    "0007.txt": "without an image",
    "0008.jpg": b"",
    "0008.txt": "an empty image",
  }
  corpora.write_tar(folder / "cc12m/00000.tar", first)
  corpora.write_tar(folder / "cc3m/00000.tar", {k: v for n in range(6) for k, v in pair(f"{n:04}", 10 + n).items()})
  (folder / "cc3m.tsv").write_text("lists of addresses are not read\n")
  return corpora.build(Builder, "default", folder / "corpora", folder, max_skipped=0.5)


def test_builds_records(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert list(records) == [
    "cc12m/00000/0001", "cc12m/00000/0002", "cc12m/00000/../0003", *(f"cc3m/00000/{n:04}" for n in range(6)),
  ]  # fmt: skip
  assert records["cc12m/00000/0001"]["caption"] == "of JSON"
  assert records["cc12m/00000/0002"]["caption"] == "tab here, a   bell, a \U0001f600 face"
  assert records["cc12m/00000/../0003"]["caption"] == LONG.strip()
  assert list(records["cc12m/00000/0001"]["frames"]) == [picture(1)]  # as it was, without another loss
  assert list(records["cc3m/00000/0005"]["frames"]) == [picture(15)]
  assert records["cc12m/00000/../0003"]["frames"][0] != picture(3, 300, 400)  # shrunk
  assert {record["num_frames"] for record in records.values()} == {1}
  assert not any(np.size(record["description"]) or record["subtitle"] for record in records.values())


def test_skipped_clips_are_counted_and_listed(built):
  counts = built.info.metadata["coverage"]["train"]
  assert {key: count for key, count in counts.items() if count} == {
    "expected": 14, "found": 9, "missing": 2, "undecodable": 1, "without_text": 2
  }  # fmt: skip
  rows = [line.split("\t")[1:3] for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert [(reason, name[-4:]) for reason, name in rows] == [
    ("without_text", "0004"), ("without_text", "0005"), ("undecodable", "0006"), ("missing", "0007"),
    ("missing", "0008"),
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(built, tmp_path):
  fields = {"evaluate.selection_split": "train", "evaluate.final_splits": ("train",), "evaluate.query": "caption"}
  fields |= {"data.num_frames": 1, "data.subtitle": "caption", "loss": "vs"}
  results = corpora.train_two_steps(built, tmp_path / "run", **fields)
  assert results["step"] == 2 and results["splits"]["train"]["size"] == 9


@pytest.mark.parametrize("head", ["", "caption\tpath\n", "url\tpath\tcaption\n"])
def test_reads_tables(tmp_path, head):
  folder = tmp_path / "s/images"
  folder.mkdir(parents=True)
  for number in range(2):
    (folder / f"{number}.jpg").write_bytes(picture(number))
  rows = [("first, with \"quotes'", "images/0.jpg"), ("second", "images/1.jpg"), ("third", "images/gone.jpg")]
  line = "https://x/y.jpg\t{1}\t{0}\r\n" if head.startswith("url") else "{0}\t{1}\n"
  (tmp_path / "s/images.tsv").write_text(head + "".join(line.format(*row) for row in rows), newline="")
  builder = corpora.build(Builder, "default", tmp_path, tmp_path / "s", max_skipped=0.5)
  records = corpora.read_back(builder, "train")
  assert [(record["caption"], record["id"]) for record in records] == rows[:2]
  assert list(records[1]["frames"]) == [picture(1)]
  assert builder.info.metadata["coverage"]["train"]["missing"] == 1


@pytest.mark.parametrize(
  ("table", "words"),
  [
    (b"a cat\timages/0.jpg\na dog\n", "line 2: expected 2 columns separated by tabs, got 1"),
    (b"a\tcat\timages/0.jpg\n", "line 1: expected 2 columns separated by tabs, got 3"),
    (b"a cat\thttps://x/0.jpg\n", "line 1: expected a path of an image .*, got 'https://x/0.jpg'"),
    (b"images/0.jpg\ta cat\n", "line 1: expected a path of an image .*, got 'a cat'"),
    (b"a cat\t../../0.jpg\n", r"line 1: '\.\./\.\./0\.jpg' is outside of"),
    (b"a cat\t/0.jpg\n", r"line 1: '/0\.jpg' is outside of"),
    (b"a cat\t0.jpg\na dog\t0.jpg\n", "clips 1 and 2 have the same id '0.jpg'"),
    (b"a cat\t0.jpg\n\xff\xfe\t1.jpg\n", "line 2: not UTF-8 .*; re-encode the file"),
    (b"", "no clips"),
  ],
)
def test_rejects_invalid_tables(tmp_path, table, words):
  (tmp_path / "images.tsv").write_bytes(table)
  with pytest.raises(UserError, match=words):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


@pytest.mark.parametrize(
  ("members", "words"),
  [
    ({"a.jpg": picture(), "a.txt": b"\xff\xfe"}, "00000.tar, 'a': the text is not UTF-8"),
    ({"a.jpg": picture(), "a.json": '{"caption": '}, "'a': invalid JSON"),
    ({"a.jpg": picture(), "a.json": "[1]"}, "'a': expected"),
    ({"a.jpg": picture(), "a.json": {"caption": 7}}, "'a': a text must be a string, got the number"),
    ({"a.jpg": picture(), "a.txt": "x" * (2**24 + 1)}, "'a': the text has 16777217 bytes; use at most 16777216"),
    ({"a\nb.jpg": picture(), "a\nb.txt": "x"}, "an id or path must be a non-empty string without control characters"),
    ({"a.jpg": picture(), "b.jpg": picture(), "a.txt": "far away"}, "clips 1 and 3 have the same id '00000/a'"),
    ({"a.jpg": picture(), "a.JPG": picture(), "a.txt": "x"}, "'a.JPG': another file differs only in upper and lower"),
    ({"a.jpg": picture(), "a.json": '{"caption": "x", "caption": "y"}'}, "'a': invalid JSON .the key 'caption' occurs"),
    ({}, "no clips"),
  ],
)
def test_rejects_invalid_tars(tmp_path, members, words):
  corpora.write_tar(tmp_path / "00000.tar", members)
  with pytest.raises(UserError, match=words):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


def test_what_is_in_the_place_of_an_image_is_named(tmp_path):
  members = {"a.1.tif": b"x", "a.1.txt": "t", "a.2.jpg": corpora.tar_link("/x.jpg", tarfile.SYMTYPE), "a.2.txt": "t"}
  corpora.write_tar(tmp_path / "0.tar", {**members, "b.jpg": picture(), "b.txt": "t"})
  first, second, good = corpora.planned(Builder, "default", tmp_path)["train"]
  assert first.missing_video.endswith("the tar file has: 'a.1.tif'") and not good.missing_video
  assert "the tar file has: 'a.2.jpg' (a symbolic link to '/x.jpg'" in second.missing_video


FORK = b"\0\5\x16\7\xff\xfe"


@pytest.mark.parametrize(
  ("members", "ids"),
  [
    ({"._a.jpg": FORK, "a.jpg": picture(), "._a.txt": FORK, "a.txt": "t"}, ["a"]),
    ({"x/._a.jpg": FORK, "x/a.jpg": picture(), "x/a.txt": "t", "__MACOSX/x/a.jpg": FORK}, ["x/a"]),
    ({"a.jpg": picture(), "a.seg.png": picture(1), "a.txt": "t"}, ["a"]),
    ({"a.depth.png": picture(), "a.jpg": picture(), "a.json": {"caption": "t"}, "a.meta.json": "{}"}, ["a"]),
    ({"x.y/a.jpg": picture(), "x.y/a.txt": "t", "x.y/b.jpg": picture(), "x.y/b.txt": "t"}, ["x.y/a", "x.y/b"]),
    ({"a.1.jpg": picture(), "a.1.txt": "t", "a.2.jpg": picture(), "a.2.txt": "t"}, ["a.1", "a.2"]),
    ({"a.jpg": picture(), "a.txt": "t", "a.2.jpg": picture(), "a.2.txt": "t"}, ["a", "a.2"]),
  ],
)
def test_samples_of_tars(tmp_path, members, ids):
  corpora.write_tar(tmp_path / "0.tar", members)
  builder = Builder(config="default", data_dir=str(tmp_path), options=BuildOptions(raw_dir=str(tmp_path)))
  items = list(builder.items(builder.raw_dir))
  assert [item.id for item in items] == [f"0/{name}" for name in ids]
  assert all(item.size and item.caption == "t" for item in items)


def test_a_name_that_occurs_twice_in_a_tar_is_rejected(tmp_path):
  path = corpora.write_tar(tmp_path / "0.tar", {"a.jpg": picture(), "a.txt": "one"})
  with tarfile.open(path, "a") as tar:
    member = tarfile.TarInfo("a.txt")
    member.size = 3
    tar.addfile(member, io.BytesIO(b"two"))
  with pytest.raises(UserError, match=r"0\.tar, 'a\.txt': two files of this name; keep one of them"):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


def test_rejects_truncated_and_corrupt_tars(tmp_path):
  """Truncated at every block, also between two members."""
  path = corpora.write_tar(tmp_path / "00000.tar", {**pair("a", 0), **pair("b", 1)})
  with tarfile.open(path) as tar:
    end = max(member.offset_data + 512 * -(-member.size // 512) for member in tar)
    starts = [member.offset for member in tar]
  whole = path.read_bytes()
  broken = [whole[:size] for size in (*starts, *range(0, end, 411), end)]
  header = whole[: starts[2]] + b"?" + whole[starts[2] + 1 :]
  for data in (*broken, header, b"no tar" * 1000):
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"00000\.tar: the tar file is truncated or corrupt .*; copy"):
      corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


def test_rejects_concatenated_tars(tmp_path):
  one, two = (corpora.write_tar(tmp_path / f"{name}.tar", pair(name, 0)) for name in "ab")
  one.write_bytes(one.read_bytes() + two.read_bytes())
  two.unlink()
  with pytest.raises(UserError, match="data after the end of the tar file; do not concatenate"):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


def test_rejects_folder_without_images(tmp_path):
  with pytest.raises(UserError, match=r"no images; put a table images\.tsv or tar files \(\*\.tar"):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)
