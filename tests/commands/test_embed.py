"""Many videos to an index: resumption, bad files, and what is refused."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_model import FakeModel
from project_paths import GOLDEN

from clipvip_jax import embed
from clipvip_jax.inference import video_index
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.video_decoder import encode_h264
from clipvip_jax.utils.errors import UserError


def make_videos(folder, count=10, bad=()):
  folder.mkdir(exist_ok=True)
  for number in range(count):
    path = folder / f"{number:03d}.mp4"
    if number in bad:
      path.write_bytes(b"<html>")
      continue
    frames = np.full((4, 16, 16, 3), 20, np.uint8)
    frames[..., number % 3] = 200
    frames[..., (number + 1) % 3] = 10 * number
    encode_h264(path, frames, fps=4)
  return read_media.list_videos(folder)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
  monkeypatch.setattr(embed, "PART", 4)


def test_every_video_has_its_row_and_the_file_reads_back(tmp_path):
  videos = make_videos(tmp_path / "v")
  whole = embed.embed_files(FakeModel(), videos, tmp_path / "i.safetensors", threads=2)
  assert whole.videos == [str(v) for v in videos] and whole.features.shape == (10, 3)
  again = video_index.read_index(tmp_path / "i.safetensors")
  np.testing.assert_array_equal(again.features, whole.features)
  assert (again.videos, again.source, again.identity) == (whole.videos, "fake", "fake-1")
  assert (whole.features.argmax(1) == np.arange(10) % 3).all()
  assert not (tmp_path / "i.safetensors.parts").exists()


def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(tmp_path):
  videos = make_videos(tmp_path / "v", bad=(6,))
  embed.embed_files(FakeModel(), videos, tmp_path / "whole.safetensors", max_bad_share=0.2)
  with pytest.raises(KeyboardInterrupt):
    embed.embed_files(FakeModel(stop_after=6), videos, tmp_path / "broken.safetensors", max_bad_share=0.2)
  assert not (tmp_path / "broken.safetensors").exists()
  second = FakeModel()
  embed.embed_files(second, videos, tmp_path / "broken.safetensors", max_bad_share=0.2)
  assert second.embedded == 5, "the first part of four was kept"
  assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_finished_index_is_not_made_again(tmp_path):
  videos = make_videos(tmp_path / "v", 3)
  embed.embed_files(FakeModel(), videos, tmp_path / "i.safetensors")
  second = FakeModel()
  embed.embed_files(second, videos, tmp_path / "i.safetensors")
  assert second.embedded == 0


def test_bad_videos_are_named_counted_and_too_many_refused(tmp_path):
  videos = make_videos(tmp_path / "v", bad=(2, 5))
  with pytest.raises(UserError, match=r"2 of 10 videos cannot be read.*002\.mp4: not a video.*--max_bad_share"):
    embed.embed_files(FakeModel(), videos, tmp_path / "i.safetensors")
  assert not (tmp_path / "i.safetensors").exists()
  second = FakeModel()
  whole = embed.embed_files(second, videos, tmp_path / "i.safetensors", max_bad_share=1)
  assert second.embedded == 0, "what was finished is kept"
  assert [pathlib.Path(name).name for name in whole.bad] == ["002.mp4", "005.mp4"] and len(whole.videos) == 8
  assert all("not a video" in reason for reason in whole.reasons)


def test_another_model_or_other_videos_are_refused(tmp_path):
  videos = make_videos(tmp_path / "v")
  other = FakeModel()
  other.identity = "fake-2"
  with pytest.raises(KeyboardInterrupt):
    embed.embed_files(FakeModel(stop_after=6), videos, tmp_path / "i.safetensors")
  with pytest.raises(UserError, match=r"another job \(identity: 'fake-1' there, 'fake-2' now\).*--out"):
    embed.embed_files(other, videos, tmp_path / "i.safetensors")
  embed.embed_files(FakeModel(), videos, tmp_path / "i.safetensors")
  for model, some in ((other, videos), (FakeModel(), videos[:3])):
    with pytest.raises(UserError, match="another model or of other videos"):
      embed.embed_files(model, some, tmp_path / "i.safetensors")


def test_killed_and_started_again_a_real_run_ends_with_the_same_bytes(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
  videos = tmp_path / "v"
  videos.mkdir()
  for number in range(300):
    encode_h264(videos / f"{number}.mp4", np.roll(picture, number, 1), fps=4)

  def command(out):
    model = str(GOLDEN / "vip_tiny.pt")
    return [sys.executable, "-m", "clipvip_jax.embed", f"--model={model}", f"--videos={videos}", f"--out={out}"]

  subprocess.run(command(tmp_path / "whole.safetensors"), check=True, capture_output=True)
  broken = subprocess.Popen([*command(tmp_path / "broken.safetensors"), "--threads=1"], stdout=subprocess.DEVNULL)
  while broken.poll() is None and not (tmp_path / "broken.safetensors.parts" / "0.safetensors").exists():
    time.sleep(0.001)
  broken.kill()
  broken.wait()
  assert (tmp_path / "broken.safetensors.parts" / "0.safetensors").exists() and not (
    tmp_path / "broken.safetensors"
  ).exists()
  subprocess.run(command(tmp_path / "broken.safetensors"), check=True, capture_output=True)
  assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "the following arguments are required: --model, --videos, --out"),
    (["--model=x.safetensors", "--videos=none", "--out=i.safetensors"], "none: neither a folder nor a list"),
    (["--model=x.safetensors", "--videos=none", "--out=i.json"], "must end with .safetensors"),
    (["--model=x.safetensors", "--videos=none", "--out=i.safetensors", "--max_bad_share=2"], "--max_bad_share=2"),
    (["--model=x.safetensors", "--videos=tests", "--out=i.safetensors"], "tests: no videos"),
    (["--model=x", "--videos=y", "--out=z", "--thread=3"], "--thread=3"),
    (["--model=x", "--videos=y", "--out=z.safetensors", "stray"], "stray"),
  ],
)
def test_a_wrong_command_ends_with_one_plain_line(arguments, message):
  done = subprocess.run([sys.executable, "-m", "clipvip_jax.embed", *arguments], capture_output=True, text=True)
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2 and line.startswith("error: ") and message in line


def test_a_mended_video_is_read_again(tmp_path):
  videos = make_videos(tmp_path / "v", bad=(2, 5))
  with pytest.raises(UserError):
    embed.embed_files(FakeModel(), videos, tmp_path / "i.safetensors")
  make_videos(tmp_path / "v")
  second = FakeModel()
  assert not embed.embed_files(second, videos, tmp_path / "i.safetensors").bad
  assert second.embedded == 8, "the part without a bad video was kept"
  embed.embed_files(FakeModel(), videos, tmp_path / "whole.safetensors")
  assert (tmp_path / "i.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_cut_part_is_made_again(tmp_path):
  videos = make_videos(tmp_path / "v")
  with pytest.raises(KeyboardInterrupt):
    embed.embed_files(FakeModel(stop_after=9), videos, tmp_path / "i.safetensors")
  (tmp_path / "i.safetensors.parts" / "0.safetensors").write_bytes(b"PK")
  second = FakeModel()
  assert len(embed.embed_files(second, videos, tmp_path / "i.safetensors").videos) == 10
  assert second.embedded == 6


def test_nothing_to_index_and_features_that_are_no_numbers_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"none of 1 videos can be read; first .*none\.mp4: no such file"):
    embed.embed_files(FakeModel(), [tmp_path / "none.mp4"], tmp_path / "i.safetensors", max_bad_share=1)
  model = FakeModel()
  model.embed_pixels = lambda clips: (np.full(3, np.nan, np.float32) for _ in clips)
  videos = make_videos(tmp_path / "v", 2)
  with pytest.raises(UserError, match=r"000\.mp4: its features are not finite"):
    embed.embed_files(model, videos, tmp_path / "j.safetensors")
  assert len(embed.embed_files(FakeModel(), videos, tmp_path / "j.safetensors").videos) == 2
  with pytest.raises(UserError, match="is a folder"):
    embed.embed_files(FakeModel(), videos, tmp_path / "v")


def test_names_that_would_move_the_cursor_or_cannot_be_encoded(tmp_path, caplog):
  (video, bad) = make_videos(tmp_path / "v", 2, bad=(1,))
  video = video.rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
  bad = bad.rename(tmp_path / "x\n\x1b[31m.mp4")
  with caplog.at_level("WARNING", logger="clipvip_jax"):
    whole = embed.embed_files(FakeModel(), [video, bad], tmp_path / "i.safetensors", max_bad_share=0.5)
  assert whole.videos == [str(video)] and whole.bad == [str(bad)]
  assert video_index.read_index(tmp_path / "i.safetensors").videos == [str(video)]
  assert r"x\n\x1b[31m.mp4" in caplog.text and "\x1b" not in caplog.text
