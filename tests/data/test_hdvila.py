"""A miniature of HD-VILA-100M: records, clips, and texts in LMDBs, in the owners' layout."""

import json
import os
import shutil

import corpora
import lmdb
import numpy as np
import pytest

from clipvip_jax import data_tool
from clipvip_jax.data.engine.coverage import SKIPPED_FILE
from clipvip_jax.data.hdvila.hdvila_dataset_builder import Builder
from clipvip_jax.data.hdvila.layout import HdvilaConfig
from clipvip_jax.input_pipeline.image_files import decode_image
from clipvip_jax.utils.errors import UserError

LONG = "word " * 10_000
VIDEOS = {"aB-_3": 4, "QMi8x8o55Ns": 5}  # id -> number of clips
CLIPS = [f"{video}.{number}.mp4" for video, count in VIDEOS.items() for number in range(1, count + 1)]
ODD = "tab\there, a \u0007 bell, a \U0001f600 face"
SPAN = ["00:00:00.500", "00:00:01.500"]


def write_lmdb(path, texts):
  environment = lmdb.open(str(path), subdir=True)
  with environment.begin(write=True) as transaction:
    for name, text in texts.items():
      transaction.put(name.encode(), text if isinstance(text, bytes) else text.encode())
  environment.close()
  return path


def write_records(path, **fields):
  return corpora.write_lines(
    path,
    [
      {"video_id": video, "url": "u", "clip": [{"clip_id": f"{video}.{n + 1}.mp4", "span": SPAN, **fields}
                                               for n in range(count)]}
      for video, count in VIDEOS.items()
    ],
  )  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  """Clips without texts: seven valid, one missing, one truncated."""
  folder = tmp_path_factory.mktemp("clips")
  for number, name in enumerate(CLIPS):
    corpora.write_video(folder / name.split(".")[0] / name, count=10, fps=6, seed=number)
  (folder / "aB-_3" / CLIPS[1]).unlink()
  cut = folder / "aB-_3" / CLIPS[2]
  cut.write_bytes(cut.read_bytes()[:-300])
  return folder


def source(tmp_path, clips, name="video_clips"):
  """A folder of raw files with links to the clips."""
  tmp_path.mkdir(exist_ok=True)
  (tmp_path / name).symlink_to(clips)
  return tmp_path


def nearest(frame, seed):
  """Returns the index of the video frame that a stored frame shows."""
  seen = decode_image(frame).astype(int)
  return int(np.argmin(np.abs(corpora.moving_frames(12, seed) - seen).mean((1, 2, 3))))


SUBTITLES = {name: f"says {name}" for name in CLIPS} | {CLIPS[0]: ODD, CLIPS[4]: LONG, "other.1.mp4": "another"}
CAPTIONS = {name: f"shows {name}" for name in CLIPS if name not in CLIPS[4:6]}


@pytest.fixture(scope="module")
def built(clips, tmp_path_factory):
  """Layout of the paper's authors: two LMDBs, and a list beside the first. Clip 6 has only a caption, 5 neither."""
  folder = source(tmp_path_factory.mktemp("hdvila"), clips, "video_clips_3fps")
  write_lmdb(folder / "hdvila_subtitles_92m_db", {k: v for k, v in SUBTITLES.items() if k not in CLIPS[5:7]})
  write_lmdb(folder / "hdvila_captions_db", CAPTIONS)
  corpora.write_lines(folder / "hdvila_subtitles_92m_db.jsonl", [{"clip_id": name} for name in CLIPS])
  (folder / "hdvila_part0.jsonl").write_text("records are not read where there is a list\n")
  return corpora.build(Builder, "default", folder / "corpora", folder, max_skipped=0.5)


def test_builds_records(built):
  records = {record["id"]: record for record in corpora.read_back(built, "train")}
  assert list(records) == [CLIPS[0], *CLIPS[3:5], *CLIPS[6:]]
  assert (records[CLIPS[0]]["subtitle"], records[CLIPS[0]]["caption"]) == (
    "tab here, a   bell, a \U0001f600 face", f"shows {CLIPS[0]}"
  )  # fmt: skip
  assert (records[CLIPS[4]]["subtitle"], records[CLIPS[4]]["caption"]) == (LONG.strip(), "")
  assert (records[CLIPS[6]]["subtitle"], records[CLIPS[6]]["caption"]) == ("", f"shows {CLIPS[6]}")
  assert all(record["num_frames"] == 5 and not record["description"] for record in records.values())
  assert [nearest(records[CLIPS[7]]["frames"][i], 7) for i in range(5)] == [0, 2, 4, 6, 8]  # three a second of six


def test_skipped_clips_are_counted_and_listed(built):
  assert built.info.metadata["coverage"]["train"] == {
    "expected": 9, "found": 6, "missing": 1, "undecodable": 1, "too_short": 0, "without_text": 1,
    "lacking_subtitle": 2, "lacking_caption": 2,
  }  # fmt: skip
  rows = [line.split("\t")[1:3] for line in (built.data_path / SKIPPED_FILE).read_text().splitlines()]
  assert rows == [["missing", CLIPS[1]], ["undecodable", CLIPS[2]], ["without_text", CLIPS[5]]]


def test_reads_subtitles_and_captions_in_json(clips, tmp_path):
  """The owner's records with inline texts, and captions in JSON."""
  folder = source(tmp_path / "s", clips)
  write_records(folder / "metafiles/hdvila_part0.jsonl", text="said")
  rows = [json.loads(line) for line in (folder / "metafiles/hdvila_part0.jsonl").read_text().splitlines()]
  del rows[0]["clip"][0]["text"]
  corpora.write_lines(folder / "metafiles/hdvila_part0.jsonl", rows[1:])
  corpora.write_lines(folder / "metafiles/hdvila_part1.jsonl", rows[:1])
  pairs = [{"image_id": name, "caption": f"shows {name}"} for name in CLIPS[:-1]]
  (folder / "captions.json").write_text(json.dumps(pairs))
  builder = corpora.build(Builder, "default", tmp_path, folder, max_skipped=0.5)
  records = {record["id"]: record for record in corpora.read_back(builder, "train")}
  assert list(records) == [*CLIPS[4:], CLIPS[0], CLIPS[3]]
  assert (records[CLIPS[0]]["subtitle"], records[CLIPS[0]]["caption"]) == ("", f"shows {CLIPS[0]}")
  assert (records[CLIPS[8]]["subtitle"], records[CLIPS[8]]["caption"]) == ("said", "")
  counts = builder.info.metadata["coverage"]["train"]
  assert (counts["lacking_subtitle"], counts["lacking_caption"]) == (1, 1)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
  """Spans from 0.5 to 1.5 s of two-second videos."""
  folder = tmp_path_factory.mktemp("uncut")
  for number, video in enumerate(VIDEOS):
    corpora.write_video(folder / f"videos/{video}.mp4", count=12, fps=6, seed=number)
  write_records(folder / "part.jsonl", text="said")
  write_lmdb(folder / "captions_db", {name: f"shows {name}" for name in CLIPS})
  return corpora.build(Builder, "default", folder / "corpora", folder)


def test_reads_spans_of_uncut_videos(uncut):
  records = corpora.read_back(uncut, "train")
  assert [record["id"] for record in records] == CLIPS
  assert all([nearest(frame, n > 3) for frame in record["frames"]] == [3, 5, 7] for n, record in enumerate(records))


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_two_steps(uncut, tmp_path):
  fields = {"evaluate.selection_split": "train", "evaluate.final_splits": ("train",), "evaluate.query": "subtitle"}
  results = corpora.train_two_steps(uncut, tmp_path / "run", **fields)
  assert results["step"] == 2 and results["splits"]["train"]["size"] == 9
  assert results["corpus"]["coverage"]["train"]["lacking_caption"] == 0


def test_rejects_captions_of_other_clips(clips, tmp_path):
  folder = source(tmp_path / "s", clips)
  write_records(folder / "part.jsonl", text="said")
  captions = write_lmdb(folder / "captions_db", {"video9.jpg": "a cat"})
  with pytest.raises(UserError, match=r"captions_db: no caption for any of the first 9.*'video9.jpg'.*'aB-_3.1.mp4'"):
    corpora.build(Builder, "default", tmp_path, folder)
  shutil.rmtree(captions)
  write_lmdb(captions, CAPTIONS)
  assert corpora.build(Builder, "default", tmp_path, folder, max_skipped=0.5).info.splits["train"].num_examples == 7


def test_max_missing_text_limits_clips_without_caption(clips, tmp_path):
  folder = source(tmp_path / "s", clips)
  write_records(folder / "part.jsonl", text="said")
  (folder / "captions.json").write_text(json.dumps({CLIPS[0]: "one"}))
  with pytest.raises(UserError, match=r"8 of 9 clips have no caption, more than 50.0%. Check .*--max_missing_text=1$"):
    corpora.build(Builder, "default", tmp_path, folder, max_skipped=0.5)
  options = [f"--data_dir={tmp_path}", f"--raw_dir={folder}", "--max_skipped=0.5"]
  with pytest.raises(UserError, match=r"\d of \d decoded clips have no caption.*raise --max_missing_text"):
    data_tool.main(["check", "hdvila", "--decode=-1", *options])
  data_tool.main(["check", "hdvila", "--decode=-1", *options, "--max_missing_text=1"])
  corpora.build(Builder, "default", tmp_path, folder, max_skipped=0.5, max_missing_text=1.0)
  data_tool.main(["build", "hdvila", *options])  # it is there
  (folder / "captions.json").write_text(json.dumps({CLIPS[0]: "two"}))
  with pytest.raises(UserError, match="other annotations"):
    data_tool.main(["build", "hdvila", *options])


def test_span_ending_at_zero_is_too_short(tmp_path):
  corpora.write_video(tmp_path / "videos/aB-_3.mp4", count=12, fps=6)
  nothing = {"clip_id": CLIPS[0], "span": ["00:00:00.000", "00:00:00.000"], "text": "said"}
  second = {"clip_id": CLIPS[3], "span": ["00:00:00.000", "00:00:01.000"], "text": "said"}
  corpora.write_lines(tmp_path / "part.jsonl", [{"video_id": "aB-_3", "clip": [nothing, second]}])
  builder = corpora.build(Builder, "default", tmp_path / "corpora", tmp_path, max_skipped=0.5)
  assert [record["id"] for record in corpora.read_back(builder, "train")] == [CLIPS[3]]


GOOD = {"video_id": "aB-_3", "clip": [{"clip_id": CLIPS[0], "span": SPAN, "text": "said"}]}


def with_clip(**fields):
  return json.dumps({**GOOD, "clip": [*GOOD["clip"], {**GOOD["clip"][0], "clip_id": CLIPS[3], **fields}]})


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ('{"video_id": "x", "clip": [', r"part\.jsonl, line 2: invalid JSON"),
    ("[]", "line 2: expected a JSON object"),
    (json.dumps({"video_id": "x"}), "line 2, clip_id: an id or path must be a non-empty string"),
    (json.dumps({"video_id": "x", "clip": "all"}), "line 2: \"clip\" must be a list, got \"all\""),
    (json.dumps({"video_id": "x", "clip": [7]}), "line 2, clip 1: expected"),
    (json.dumps({"clip": GOOD["clip"]}), "line 2, clip 1, video_id: an id or path must be"),
    (json.dumps({**GOOD, "video_id": "../.."}), r"line 2, clip 1, video_id: '\.\./\.\..*' is outside of"),
    (json.dumps({"clip_id": "../../x.1.mp4", "span": SPAN}), r"line 2, clip_id: '\.\./\.\./x\.1\.mp4' is outside of"),
    (with_clip(clip_id="/etc/passwd"), "line 2, clip 2, clip_id: '/etc/passwd' is outside of"),
    (with_clip(clip_id="a\nb"), "line 2, clip 2, clip_id: an id or path must be"),
    (with_clip(text=["a"]), "line 2, clip 2, text: a text must be a string, got "),
    (with_clip(span=["00:00:01", "later"]), "line 2, clip 2: clips of uncut videos need \"span\": .* got .*\"later\""),
    (with_clip(span=["00:00:01"]), "line 2, clip 2: clips of uncut videos need"),
    (with_clip(span=None), "line 2, clip 2: clips of uncut videos need"),
    (with_clip(span=["00:00:01", "-0:00:02"]), "line 2, clip 2: clips of uncut videos need"),
    (json.dumps(GOOD), "clips 1 and 2 have the same id 'aB-_3.1.mp4'"),
  ],
)  # fmt: skip
def test_rejects_invalid_records(tmp_path, line, words):
  (tmp_path / "videos").mkdir()
  (tmp_path / "part.jsonl").write_text(json.dumps(GOOD) + "\n" + line + "\n")
  with pytest.raises(UserError, match=words) as refused:
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)
  assert "\n" not in str(refused.value)


def no_lmdb(path):
  path.mkdir()
  (path / "data.mdb").write_bytes(b"no LMDB" * 2000)


def empty_folder(path):
  path.mkdir()


def half_an_lmdb(path):
  write_lmdb(path, {**CAPTIONS, **{f"{n}": "text" for n in range(3000)}})
  os.truncate(path / "data.mdb", (path / "data.mdb").stat().st_size // 2)


def no_utf8(path):
  write_lmdb(path, {CLIPS[0]: b"\xff\xfe"})


def empty(path):
  write_lmdb(path, {})


@pytest.mark.parametrize(
  ("write", "words"),
  [
    (no_lmdb, "captions_db: cannot be opened as an LMDB .*; copy it again"),
    (empty_folder, "captions_db: cannot be opened as an LMDB .*; copy it again"),
    (half_an_lmdb, r"data.mdb: the LMDB is truncated \(\d+ of \d+ bytes\); copy it again"),
    (no_utf8, r"captions_db, key 'aB-_3\.1\.mp4': the text is not UTF-8"),
    (empty, "captions_db: no caption for any of the first 1 clips"),
  ],
)
def test_rejects_corrupt_lmdbs(tmp_path, write, words):
  (tmp_path / "videos").mkdir()
  corpora.write_lines(tmp_path / "part.jsonl", [GOOD])
  write(tmp_path / "captions_db")
  with pytest.raises(UserError, match=words):
    corpora.build(Builder, "default", tmp_path / "corpora", tmp_path)


def test_rejects_missing_and_ambiguous_files(tmp_path):
  def refused(words, **fields):
    with pytest.raises(UserError, match=words):
      corpora.build(Builder, HdvilaConfig(name="mine", **fields), tmp_path / "corpora", tmp_path)

  refused("no folder of clips or videos .*; set `clips` or `videos` to its name")
  refused(r"no folder of clips or videos \(mine\)", clips="mine")
  (tmp_path / "videos").mkdir()
  refused("no records of clips")
  refused("no records of clips .*mine.jsonl", records="mine.jsonl")
  corpora.write_lines(tmp_path / "part.jsonl", [{"clip_id": CLIPS[0], "span": SPAN}])
  refused('part.jsonl, line 1: no "text", and no file of subtitles or captions')
  refused("captions='gone': no such file in .*; name the file of captions", captions="gone")
  for name in ("captions1.json", "captions2.json"):
    (tmp_path / name).write_text("{}")
  refused(r"several files may hold the captions \(captions1.json, captions2.json\); set `captions` to one of them")
  (tmp_path / "captions1.json").write_text('{"a": ')
  refused("captions1.json: cannot be read as JSON", captions="captions1.json")
