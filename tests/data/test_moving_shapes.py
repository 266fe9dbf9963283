"""moving_shapes: twins, splits, texts, corrupt files and determinism."""

import collections
import itertools
import json
import subprocess
import sys

import corpora
import numpy as np
import pytest

from clipvip_jax.data.engine import coverage
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.data.moving_shapes import language, render, scenes, videos
from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder, MovingShapesConfig
from clipvip_jax.data.moving_shapes.plan import SPLITS, Plan
from clipvip_jax.utils.errors import UserError

DEMO = next(config for config in Builder.BUILDER_CONFIGS if config.name == "demo")


def tiny(**changes):
  """Returns a configuration of 16 training clips and 8 of each other split."""
  counts = {"appearances": 4, "story_pairs": 4, "seen_pairs": 2, "renderings": 1}
  counts |= {"validation": 8, "test": 8, "test_unseen": 8}
  return MovingShapesConfig(name="tiny", **{**counts, "num_workers": 0, "drawn_frames": 6, "side": 32, **changes})


def build(folder, max_skipped=0.05, **changes):
  options = BuildOptions(max_skipped=max_skipped)
  builder = Builder(config=tiny(**changes), data_dir=str(folder), file_format="array_record", options=options)
  builder.download_and_prepare()
  return builder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  return folder, build(folder)


@pytest.fixture(scope="module")
def demo():
  """{split: clips} of the demo configuration, with texts and without pixels."""
  plan = DEMO.plan()
  return {split: plan.split(split) for split in SPLITS}


def test_splits_separate_seen_and_unseen_descriptions(demo):
  trained = collections.Counter(clip.description for clip in demo["train"])
  assert len(trained) == 32 * 16 and set(trained.values()) == {DEMO.renderings}
  for split in ("validation", "test", "test_unseen"):
    assert len(demo[split]) == len({clip.description for clip in demo[split]}) == 256
  known = {clip.description for clip in demo["validation"]}, {clip.description for clip in demo["test"]}
  assert not known[0] & known[1] and known[0] | known[1] <= set(trained)
  unseen = demo["test_unseen"]
  assert not {clip.description for clip in unseen} & set(trained)
  # Unseen together, but each of the two was seen in another company.
  assert {clip.appearance for clip in unseen} <= {clip.appearance for clip in demo["train"]}
  assert {clip.story for clip in unseen} <= {clip.story for clip in demo["train"]}
  assert len({clip.appearance for clip in demo["train"]}) == 32
  per_appearance = collections.Counter(clip.appearance for clip in demo["train"]).values()
  assert set(per_appearance) == {16 * DEMO.renderings}
  keys = collections.Counter(clip.key for clip in itertools.chain(*demo.values()))
  shared = {clip.key for split in SPLITS[1:] for clip in demo[split]}  # by twins, and by nobody else
  assert all(count == (2 if key in shared else 1) for key, count in keys.items())


def test_twins_differ_only_in_motion_or_order(demo):
  assert not any(clip.twin for clip in demo["train"])
  for split in ("validation", "test", "test_unseen"):
    clips = {clip.id: clip for clip in demo[split]}
    for clip in demo[split]:
      twin = clips[clip.twin]
      assert twin.twin == clip.id != twin.id and twin.appearance == clip.appearance
      assert twin.story != clip.story and len(twin.story) == len(clip.story) and twin.key == clip.key
      if len(clip.appearance.things) == 2:
        assert twin.story == clip.story[::-1]
      else:
        assert twin.story[0].speed == clip.story[0].speed


@pytest.mark.parametrize("pair", [*scenes.ONE_THING, *scenes.TWO_THINGS])
def test_twins_have_the_same_set_of_frames(pair):
  """With the same random numbers, both stories have the same frames in another order, bit for bit."""
  appearance = scenes.appearances(2, np.random.default_rng(3))[len({event.thing for event in pair[0]}) - 1]
  for seed in range(5):
    one, other = (
      [frame.tobytes() for frame in render.render(scenes.stage(appearance, story, 20, np.random.default_rng(seed)), 64)]
      for story in pair
    )
    assert sorted(one) == sorted(other) and one != other


def test_built_twins_have_the_same_set_of_frames(built):
  """Also after H.264 and JPEG: no artefact reveals the direction."""
  _, builder = built
  records = {record["id"]: list(record["frames"]) for record in builder.as_data_source("test")}
  twins = {record["id"]: record["twin"] for record in builder.as_data_source("test")}
  for name, twin in twins.items():
    assert sorted(records[name]) == sorted(records[twin]) and records[name] != records[twin]


def test_only_the_moving_object_is_visible():
  rng = np.random.default_rng(0)
  _, two = scenes.appearances(2, rng)
  for story in itertools.chain(*scenes.TWO_THINGS):
    centres = scenes.stage(two, story, 20, rng).centres
    on = (centres > -0.5).all(-1)
    assert (on.sum(1) == 1).all()
    assert on[10, story[1].thing], "the middle frame shows the object that its caption names"
    assert on[0, story[0].thing]


def test_motion_is_visible_in_six_frames():
  """Between two of six sampled frames, the visible object moves by several pixels."""
  rng = np.random.default_rng(0)
  drawn = np.linspace(0, 19, 6).astype(int)
  for appearance, pairs in zip(scenes.appearances(2, rng), (scenes.ONE_THING, scenes.TWO_THINGS), strict=True):
    for story in itertools.chain(*pairs):
      centres = scenes.stage(appearance, story, 20, rng).centres[drawn]
      steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
      assert 0.05 < steps[steps < 2].max() < 0.6


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_objects_are_drawn_at_their_centres(shape):
  body = scenes.Body(shape, "striped", np.array([200.0, 30.0, 40.0]), 0.18)
  centres = np.array([[[0.5, 0.5]], [[0.25, 0.5]], [[-9.0, -9.0]]])
  inside, left, absent = render.render(scenes.Scene((body,), "black", np.array([9.0, 9.0, 9.0]), centres), 32)
  assert 20 < (inside[..., 0] > 40).sum() < 300
  np.testing.assert_allclose(np.roll(inside, -8, 1).astype(int), left, atol=1)
  assert (absent == 9).all()


def test_texts_are_short_and_of_the_documented_kinds(demo):
  clips = demo["train"]
  words = set()
  for clip in itertools.chain(*demo.values()):
    assert len(clip.description.split()) <= 24 and len(clip.subtitle.split()) <= language.MAX_SUBTITLE_WORDS
    words.update(f"{clip.description} {clip.subtitle} {clip.caption}".split())
  assert len(words) < 500
  share = lambda kind: sum(map(kind, clips)) / len(clips)  # noqa: E731
  motions = {motion.split("-")[0] for motion in (*scenes.STRAIGHT, *scenes.ROUND)}
  told = lambda clip: bool(motions & set(clip.subtitle.split()))  # noqa: E731
  assert 0.65 < share(told) < 0.75  # a tenth of these of another clip
  assert 0.03 < share(lambda clip: not clip.subtitle) < 0.07
  assert 0.03 < share(lambda clip: not clip.caption) < 0.07
  things = {*scenes.COLOURS, *scenes.SHAPES}
  assert 0.22 < share(lambda clip: bool(clip.subtitle) and not things & set(clip.subtitle.split())) < 0.28  # elsewhere
  assert 0.42 < share(lambda clip: clip.caption.split()[-1:] in [[name] for name in scenes.BACKGROUNDS]) < 0.53
  for clip in clips:  # a caption says what there is and that it moves, not where to
    assert not motions & set(clip.caption.split()) and not {"slowly", "quickly"} & set(clip.caption.split())
    assert not clip.caption or clip.caption.split()[4] == "moves"


def test_records_without_tensorflow(built):
  _, builder = built
  code = (
    "import sys, json, tensorflow_datasets as tfds\n"
    f"source = tfds.builder_from_directory({str(builder.data_path)!r}).as_data_source('test')\n"
    "record = source[0]\n"
    "print(json.dumps([len(source), record['twin'].decode(), len(record['frames']), int(record['num_frames']),"
    " 'tensorflow' in sys.modules, record['frames'][0][:2] == bytes([255, 216])]))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  count, twin, frames, num_frames, tensorflow, jpeg = json.loads(done.stdout.splitlines()[-1])
  assert (count, frames, num_frames, tensorflow, jpeg) == (8, 6, 6, False, True)
  assert twin.startswith("test_")


def test_workers_import_neither_jax_nor_tensorflow():
  heavy = "'jax', 'tensorflow', 'tensorflow_datasets'"
  code = f"import sys, clipvip_jax.data.moving_shapes.videos; print([m for m in ({heavy}) if m in sys.modules])"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"


def test_metadata_has_settings_and_coverage(built):
  _, builder = built
  assert "JPEG of quality 92" in builder.info.metadata["pixels"]
  counts = builder.info.metadata["coverage"]["test"]
  assert (counts["expected"], counts["found"], counts["undecodable"]) == (8, 8, 0)
  assert (builder.data_path / coverage.SKIPPED_FILE).read_text() == ""


def everything(builder):
  sources = builder.as_data_source()
  return {split: [{**r, "frames": list(r["frames"])} for r in sources[split]] for split in sources}


@pytest.mark.slow
def test_bytes_depend_on_seed_not_on_workers(built, tmp_path):
  folder, builder = built
  again = build(tmp_path, num_workers=2)
  assert everything(again) == everything(builder)
  files = sorted(path.relative_to(folder) for path in (folder / "moving_shapes_videos").rglob("*.mp4"))
  assert len(files) == 40
  assert all((folder / path).read_bytes() == (tmp_path / path).read_bytes() for path in files)
  other = everything(build(tmp_path / "other", seed=1))
  assert other["test"][0]["frames"] != everything(builder)["test"][0]["frames"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("spoil", "reason"),
  [
    (lambda path: path.write_bytes(b""), "the file is empty (0 bytes)"),
    (lambda path: path.write_bytes(path.read_bytes()[:-400]), ""),
    (corpora.write_sound, "no video stream"),
  ],
  ids=["empty", "cut", "sound"],
)
def test_max_skipped_limits_corrupt_files(tmp_path, spoil, reason):
  build(tmp_path)
  bad = tmp_path / "moving_shapes_videos" / "tiny" / "test" / "test_00002.mp4"
  spoil(bad)
  untouched = bad.with_name("test_00000.mp4")
  before = untouched.stat().st_mtime_ns
  (tmp_path / "moving_shapes").rename(tmp_path / "first")
  with pytest.raises(UserError, match=r"1 of 8 clips were skipped .*test_00002.mp4: .*--max_skipped=0.13") as refused:
    build(tmp_path)
  assert reason in str(refused.value) and "\n" not in str(refused.value)
  assert "test_00002.mp4" in next((tmp_path / "moving_shapes").rglob(coverage.SKIPPED_FILE)).read_text()
  builder = build(tmp_path, max_skipped=0.2)
  counts = builder.info.metadata["coverage"]["test"]
  assert counts["found"] == 7 and counts["undecodable"] == 1
  split, why, name, detail = (builder.data_path / coverage.SKIPPED_FILE).read_text().strip().split("\t")
  assert (split, why, name) == ("test", "undecodable", "test_00002") and str(bad) in detail and reason in detail
  ids = [record["id"] for record in builder.as_data_source("test")]
  assert ids == [f"test_{number:05d}".encode() for number in range(8) if number != 2]  # in the order of the plan
  assert untouched.stat().st_mtime_ns == before  # used as it is


def test_rejects_other_settings_under_the_same_name(built):
  folder, _ = built
  assert build(folder, num_workers=1).info.metadata["settings"]["seed"] == 0  # not a setting of the content
  with pytest.raises(UserError, match=r"was built with other settings \(seed\); delete this folder"):
    build(folder, seed=5)
  name = "moving_shapes_videos/tiny"
  settings = json.loads((folder / name / "settings.json").read_text())
  videos.check_settings(folder / name, settings)
  with pytest.raises(UserError, match=r"the videos were drawn with other settings \(seed\); delete this folder"):
    videos.check_settings(folder / name, {**settings, "seed": 5})


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seen_pairs": 4}, "seen_pairs=4, story_pairs=4 are out of range; use 1 <= seen_pairs"),
    ({"appearances": 1}, "appearances=1 is out of range|even number"),
    ({"test": 7}, "test=7 clips is out of range; use an even number"),
    ({"test_unseen": 100}, "test_unseen=100 clips is out of range; use an even number"),
    ({"side": 33}, "side=33 is odd; H.264 needs an even number"),
    ({"drawn_fps": 0}, "drawn_fps=0 is out of range; use 1 to 240"),
  ],
)
def test_rejects_values_out_of_range(changes, words):
  config = tiny(**changes)
  with pytest.raises(UserError, match=words):
    config.video_format()
    config.plan().split("train")


def test_plan_rejects_odd_numbers_of_clips():
  with pytest.raises(UserError, match="even number from 2 to 16"):
    Plan(0, 4, 4, 2, 1, {"validation": 8, "test": 18, "test_unseen": 8})
