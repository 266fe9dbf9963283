"""The command embed: resuming after SIGKILL, and wrong options."""

import subprocess
import sys

import numpy as np
import pytest
from project_paths import GOLDEN

from clipvip_jax import embed
from clipvip_jax.inference import video_index
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError

# The command, which waits when it has written its first part.
STOPPED = """
import time
from clipvip_jax import embed
from clipvip_jax.inference import video_index
write_index = video_index.write_index

def write_and_wait(path, index):
  write_index(path, index)
  print("written", flush=True)
  time.sleep(600)

video_index.write_index = write_and_wait
embed.main()
"""


@pytest.mark.slow
def test_resumes_bit_identically_after_sigkill(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
  videos = tmp_path / "v"
  videos.mkdir()
  for number in range(300):
    encode_h264(videos / f"{number}.mp4", np.roll(picture, number, 1), fps=4)

  def command(out, *program):
    program = program or ("-m", "clipvip_jax.embed")
    return [sys.executable, *program, f"--model={GOLDEN / 'vip_tiny.pt'}", f"--videos={videos}", f"--out={out}"]

  expected, killed = tmp_path / "expected.safetensors", tmp_path / "killed.safetensors"
  first_part = tmp_path / "killed.safetensors.parts" / "0.safetensors"
  subprocess.run(command(expected), check=True, capture_output=True)
  with subprocess.Popen(command(killed, "-c", STOPPED), stdout=subprocess.PIPE, text=True) as process:
    assert "written\n" in iter(process.stdout.readline, "")
    process.kill()
  assert first_part.exists() and not killed.exists()
  resumed = subprocess.run(command(killed), check=True, capture_output=True, text=True)
  assert "resuming" in resumed.stdout and "300 videos, 0 skipped" in resumed.stdout
  assert killed.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_joined_shards_equal_a_single_run(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
  (tmp_path / "v").mkdir()
  for number in range(130):  # three parts, the last of which fills no batch
    encode_h264(tmp_path / "v" / f"{number}.mp4", np.roll(picture, number, 1), fps=4)
  job = [f"--model={GOLDEN / 'vip_tiny.pt'}", f"--videos={tmp_path / 'v'}", "--segments=1s"]
  single, joined = f"--out={tmp_path / 'single.safetensors'}", f"--out={tmp_path / 'joined.safetensors'}"
  embed.main([*job, single])
  for number in (1, 2):
    embed.main([*job, joined, f"--shard={number}/2"])
  embed.main(["--join", joined])
  index = video_index.read_index(tmp_path / "joined.safetensors")
  assert len(index.videos) == 390 and index.videos[0].endswith(".mp4@0-1") and index.segments == "1s"
  assert (tmp_path / "joined.safetensors").read_bytes() == (tmp_path / "single.safetensors").read_bytes()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "the following arguments are required: --model, --videos, --out"),
    (["--model=x.safetensors", "--videos=none", "--out=i.safetensors"], "none: "),
    (["--model=x.safetensors", "--videos=none", "--out=i.npz"], r"--out=i\.npz must end with \.safetensors"),
    (["--model=x", "--videos=y", "--out=i.safetensors", "--max_skipped=2"], "=2.0 must be between 0 and 1"),
    (["--model=x", "--videos=y", "--out=i.safetensors", "--crop=middle"], "argument --crop: invalid choice: 'middle'"),
    (["--model=x", "--videos=y", "--out=i.safetensors", "--threads=-1"], "--threads=-1 must be at least 0"),
    (["--model=x.safetensors", "--videos=tests", "--out=i.safetensors"], "tests: no videos"),
    (["--model=x", "--videos=y", "--out=z", "--thread=3"], "unrecognized arguments: --thread=3"),
    (["--model=x", "--videos=y", "--out=z.safetensors", "stray"], "unrecognized arguments: stray"),
    (["--model=x", "--videos=y", "--out=z.safetensors", "--shard=0/2"], "--shard=0/2 is not I/N"),
    (["--model=x", "--videos=y", "--out=z.safetensors", "--segments=10"], "--segments=10 is not a length"),
    (["--join"], "the following arguments are required: --out"),
    (
      ["--join", "--out=z.safetensors", "--model=x", "--shard=1/2"],
      "only --out and --max_skipped; omit --model, --shard",
    ),
    (["--join", "--out=z.safetensors"], r"--out=z\.safetensors: no shards beside it"),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_in_one_line(arguments, message):
  with pytest.raises(UserError, match=message) as refused:
    embed.main(arguments)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize("options", [["--model=x", "--videos=y", "--segments=1s"], ["--join"]])
def test_a_folder_in_place_of_the_index_is_refused_before_videos_are_listed(tmp_path, options):
  (tmp_path / "i.safetensors").mkdir()
  with pytest.raises(UserError, match=r"--out=.*i\.safetensors is a folder; name a file"):
    embed.main([f"--out={tmp_path / 'i.safetensors'}", *options])


def test_exits_with_code_2_and_one_line_on_stderr():
  arguments = ["--model=x.safetensors", "--videos=none", "--out=i.safetensors"]
  done = subprocess.run([sys.executable, "-m", "clipvip_jax.embed", *arguments], capture_output=True, text=True)
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2 and line.startswith("error: none: ")


def test_videos_in_a_bucket_give_the_features_of_local_ones(bucket, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
  (tmp_path / "v").mkdir()
  for number in range(3):
    encode_h264(tmp_path / "v" / f"{number}.mp4", np.roll(picture, number, 1), fps=4)
  bucket.upload(tmp_path / "v", "v")
  bucket.write("v/broken.mp4", b"no video")
  job = [f"--model={GOLDEN / 'vip_tiny.pt'}", "--segments=1s", "--max_skipped=0.5"]
  indexes = []
  for name, videos in (("local", tmp_path / "v"), ("remote", bucket / "v")):
    embed.main([*job, f"--videos={videos}", f"--out={tmp_path / name}.safetensors"])
    indexes.append(video_index.read_index(tmp_path / f"{name}.safetensors"))
  local, remote = indexes
  assert remote.videos == [name.replace(str(tmp_path), bucket.url) for name in local.videos] and len(local.videos) == 9
  assert np.array_equal(remote.features, local.features)
  assert remote.bad == [bucket / "v/broken.mp4"] and remote.reasons[0].startswith("not a video")
  clip = VideoClip.from_name(remote.videos[1])
  assert read_media.read_frames(clip.path, 2, (clip.start, clip.end))[0].shape == (16, 16, 3)  # as a search page does
