"""Shards of an index: their join equals a single build, and wrong sets of shards."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from fake_model import FakeModel
from videos import write_videos

from clipvip_jax.inference import index_builder, video_index
from clipvip_jax.inference.index_builder import IndexLayout, build_index
from clipvip_jax.inference.index_shards import Shard, join_shards
from clipvip_jax.utils.errors import UserError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 2)


@pytest.fixture
def videos(tmp_path):
  return write_videos(tmp_path / "v", 9, bad=(3,))


@pytest.fixture
def out(tmp_path):
  return tmp_path / "i.safetensors"


def build_shard(videos, out, number, count, model=None):
  shard = Shard(number, count)
  layout = IndexLayout(shard=shard.label(videos))
  return build_index(model or FakeModel(), shard.select(videos), shard.path(out), max_skipped=0.5, layout=layout)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_join_equals_a_single_build(tmp_path, videos, out, count):
  for number in range(count):
    build_shard(videos, out, number, count)
  single = tmp_path / "single.safetensors"
  build_index(FakeModel(), videos, single, max_skipped=0.5)
  assert join_shards(out, 0.5).videos == [str(video) for video in videos if video.name != "003.mp4"]
  assert out.read_bytes() == single.read_bytes()


def test_every_video_is_in_one_shard_whatever_their_number():
  videos = [pathlib.Path(f"{number}.mp4") for number in range(31)]
  for count in range(1, 17):
    selected = [video for number in range(count) for video in Shard(number, count).select(videos)]
    assert selected == videos, count


def test_a_missing_shard_is_named(videos, out):
  for number in (0, 2):
    build_shard(videos, out, number, 4)
  with pytest.raises(
    UserError, match=r"2 of 4 shards are missing: i-00001-of-00004\.safetensors, i-00003.*--shard=2/4"
  ):
    join_shards(out)
  assert not out.exists()


def test_other_sets_of_files_are_refused(tmp_path, videos, out):
  with pytest.raises(UserError, match=r"no shards beside it, such as i-00000-of-00004\.safetensors"):
    join_shards(out)
  build_shard(videos, out, 0, 1)
  build_shard(videos, out, 1, 2)
  with pytest.raises(UserError, match="shards of 1 and of 2 are beside it; delete those of one"):
    join_shards(out)
  out.write_bytes(b"")
  with pytest.raises(UserError, match=r"i\.safetensors exists; delete it to join its shards again"):
    join_shards(out)
  with pytest.raises(UserError, match=r"none.i\.safetensors: its folder cannot be read"):
    join_shards(tmp_path / "none" / "i.safetensors")


def other_model():
  model = FakeModel()
  model.identity = "fake-2"
  return model


def wide_model(identity):
  """Has features of size 6."""
  model = FakeModel()
  model.identity, model.config.model.embed_dim, narrow = identity, 6, model.embed_pixels
  model.embed_pixels = lambda pixels: (np.tile(features, 2) / np.sqrt(2) for features in narrow(pixels))
  return model


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (lambda videos, out: build_shard(videos, out, 1, 2, other_model()), "has another model than .*00000-of-00002"),
    (lambda videos, out: build_shard(videos, out, 1, 2, wide_model("fake-2")), "has another model than"),
    (lambda videos, out: build_shard(videos, out, 1, 2, wide_model("fake-1")), "has another size of features than"),
    (lambda videos, out: build_shard(videos, out, 1, 2, FakeModel(crop="center")), "has another crop than"),
    (lambda videos, out: build_shard(videos[1:], out, 1, 2), "has another list of videos than"),
    (
      lambda videos, out: shutil.copy(Shard(0, 2).path(out), Shard(1, 2).path(out)),
      "00001-of-00002.safetensors is not what --shard=2/2 writes; was it renamed",
    ),
    (lambda videos, out: build_index(FakeModel(), videos[:1], Shard(1, 2).path(out)), "is not what --shard=2/2 writes"),
    (
      lambda videos, out: Shard(1, 2).path(out).write_bytes(Shard(0, 2).path(out).read_bytes()[:-1]),
      "00001-of-00002.safetensors is corrupt",
    ),
  ],
)
def test_shards_that_do_not_belong_together_are_refused(videos, out, write, message):
  build_shard(videos, out, 0, 2)
  write(videos, out)
  with pytest.raises(UserError, match=message) as refused:
    join_shards(out, 1)
  assert not out.exists() and "\n" not in str(refused.value)


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda index: dataclasses.replace(index, features=2 * index.features), "features are not finite, or not of unit"),
    (lambda index: index.select([0, 2]), "its shards have 8 videos, their list has 9, digest .*; embed them again"),
    (lambda index: index.select([0, 1, 2, 2]), "its shards have 10 videos, their list has 9, digest"),
  ],
)
def test_shards_that_were_edited_are_refused(videos, out, edit, message):
  for number in range(2):
    build_shard(videos, out, number, 2)
  path = Shard(0, 2).path(out)
  video_index.write_index(path, edit(video_index.read_index(path)))
  with pytest.raises(UserError, match=message):
    join_shards(out, 1)
  assert not out.exists()


def test_too_many_unreadable_videos_are_refused_at_the_join(videos, out):
  for number in range(2):
    build_shard(videos, out, number, 2)
  with pytest.raises(UserError, match=r"1 of 9 videos cannot be read, more than --max_skipped=0\.05"):
    join_shards(out)


@pytest.mark.parametrize("bad", [(0, 1), (2, 3, 8)])
def test_a_shard_without_a_readable_video_is_joined(tmp_path, out, bad):
  videos = write_videos(tmp_path / "w", 9, bad=bad)
  for number in range(5):
    shard = Shard(number, 5)
    layout = IndexLayout(shard=shard.label(videos))
    if all(int(video.stem) in bad for video in shard.select(videos)):
      with pytest.raises(UserError, match=r"videos cannot be read, more than --max_skipped=0\.5"):
        build_index(FakeModel(), shard.select(videos), shard.path(out), max_skipped=0.5, layout=layout)
    index = build_index(FakeModel(), shard.select(videos), shard.path(out), max_skipped=1, layout=layout)
    assert len(index.videos) + len(index.bad) == len(shard.select(videos))
  build_index(FakeModel(), videos, tmp_path / "single.safetensors", max_skipped=0.5)
  join_shards(out, 0.5)
  assert out.read_bytes() == (tmp_path / "single.safetensors").read_bytes()


def test_a_shard_is_an_index_and_resumes(videos, out):
  index = build_shard(videos, out, 1, 2)
  assert video_index.read_index(Shard(1, 2).path(out)).videos == index.videos
  again = FakeModel()
  build_shard(videos, out, 1, 2, again)
  assert again.embedded == 0
  with pytest.raises(UserError, match="index of another model or of other videos"):
    build_index(FakeModel(), Shard(1, 2).select(videos), Shard(1, 2).path(out), max_skipped=0.5)


@pytest.mark.parametrize(("text", "shard"), [("1/1", Shard(0, 1)), ("1/8", Shard(0, 8)), ("8/8", Shard(7, 8))])
def test_the_option_counts_from_1_as_that_of_caption(text, shard):
  assert Shard.parse(text) == shard and shard.option == f"--shard={text}"


def test_names_and_labels_of_files_count_from_0_as_those_of_earlier_versions():
  shard = Shard.parse("1/8")
  assert shard.path(pathlib.Path("i.safetensors")).name == "i-00000-of-00008.safetensors"
  assert shard.label([]).startswith("0/8 of 0, digest")


@pytest.mark.parametrize("text", ["0/8", "9/8"])
def test_a_number_off_by_one_is_refused_with_the_first_and_the_last(text):
  with pytest.raises(UserError, match=f"--shard={text} is not I/N .*: --shard=1/8 is the first, --shard=8/8 the last"):
    Shard.parse(text)


def test_more_shards_than_parts_are_refused(videos):
  with pytest.raises(UserError, match="--shard=1/6: 9 videos make at most 5 shards, of 2 videos each; use fewer"):
    Shard(0, 6).select(videos)
