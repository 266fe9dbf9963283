"""The decoding process: a file that hangs or crashes the decoder costs one clip."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import corpora
import pytest
from videos import write_movie

from clipvip_jax.data.engine.clip_record import read_frames
from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.decode_process import DecodeProcess
from clipvip_jax.data.engine.frame_extraction import FrameSettings
from clipvip_jax.data.engine.items import Item


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("videos")
  return {name: str(corpora.write_video(folder / f"{name}.mp4")) for name in ("good", "hang", "crash", "also_good")}


def decoding(name="pyav", seconds=30.0):
  return DecodeProcess(FrameSettings(), name, seconds)


def test_returns_frames(videos):
  with decoding() as child:
    frames = child.read_frames(videos["good"])
    assert len(frames) == 12 and all(frame.startswith(b"\xff\xd8") for frame in frames)
    assert child.read_frames(videos["good"], 0.5, 1.5) == frames[3:9]
    content = open(videos["good"], "rb").read()  # noqa: PTH123, SIM115 - not an image
    refused = child.read_frames(videos["good"], offset=10, size=len(content) - 10)
    assert isinstance(refused, SkippedClip) and refused.reason == "undecodable"
    assert child.read_frames("/no/such.mp4") == SkippedClip("/no/such.mp4", "missing", "no such file")
    assert child.read_frames(videos["good"], 90.0, 91.0).reason == "too_short"


def test_truncated_files_are_skipped_and_what_is_tolerated_is_counted(tmp_path):
  files = [write_movie(tmp_path / name, "libx264", "aac") for name in ("cut.mkv", "short.mkv", "recording.ts")]
  for file, fraction in zip(files, (0.4, 0.95, 1.0), strict=True):
    file.write_bytes(file.read_bytes()[: int(fraction * file.stat().st_size)])
  counts = Counter()
  with decoding() as child:
    cut, *accepted = [child.read_frames(str(file), counts=counts) for file in files]
  assert cut.reason == "undecodable" and "truncated" in cut.detail and len(accepted[1]) == 50
  assert counts == {"corrupt": 1, "truncated": 1, "unverifiable": 1}


def test_hung_decoder_costs_one_clip(videos):
  with decoding("odd_decoders:hangs", seconds=1.0) as child:
    assert len(child.read_frames(videos["good"])) == 12  # the first answer may take longer: modules are loaded
    started = time.monotonic()
    assert child.read_frames(videos["hang"]).detail == "the decoder hung: no result within 1 s"
    assert time.monotonic() - started < 5
    assert len(child.read_frames(videos["also_good"])) == 12


SUSPENDED = """
  import sys
  from clipvip_jax.data.engine import decode_process
  from clipvip_jax.data.engine.frame_extraction import FrameSettings
  decode_process.CHECK_SECONDS, decode_process.MAX_DELAY_SECONDS, decode_process.GRACE_SECONDS = 0.05, 0.4, 0.1
  with decode_process.DecodeProcess(FrameSettings(), "odd_decoders:slow", 2.5) as child:
    for _ in range(2):
      frames = child.read_frames(sys.argv[1])
      print(len(frames) if isinstance(frames, list) else frames.detail, flush=True)
"""


def test_time_in_which_both_processes_were_suspended_does_not_count(videos):
  process = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(SUSPENDED), videos["good"]],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "ODD_DECODER_SECONDS": "1"},
    start_new_session=True,
  )
  answers = [process.stdout.readline()]
  time.sleep(0.3)  # the second request is being decoded
  os.killpg(process.pid, signal.SIGSTOP)
  time.sleep(3.5)  # longer than the limits of both
  os.killpg(process.pid, signal.SIGCONT)
  answers.append(process.stdout.readline())
  assert process.wait(timeout=30) == 0 and answers == ["12\n", "12\n"]


def test_crashed_decoder_costs_one_clip(videos):
  with decoding("odd_decoders:crashes") as child:
    assert child.read_frames(videos["crash"]).detail == "the decoder crashed (SIGSEGV)"
    assert len(child.read_frames(videos["good"])) == 12


@pytest.mark.parametrize(
  ("name", "words"), [("fills_the_memory", "GiB of memory"), ("breaks", "ZeroDivisionError: in breaks")]
)
def test_reports_any_error_and_continues(videos, name, words):
  with decoding(f"odd_decoders:{name}") as child:
    assert words in child.read_frames(videos["good"]).detail
    assert words in child.read_frames(videos["good"]).detail  # and the process goes on


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit, which only Linux has")
@pytest.mark.parametrize("part", [False, True], ids=["video", "image of a tar file"])
def test_too_many_open_files_are_no_error_of_a_clip(videos, part):
  item = Item("a", "", videos["good"], descriptions=["x"], size=100 if part else 0)
  with decoding() as child:
    read_frames(item, child, Counter())  # imports what is needed
    resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, 3))
    with pytest.raises(OSError, match="Too many open files") as raised:
      read_frames(item, child, Counter())
  assert raised.value.errno == errno.EMFILE and raised.value.filename == videos["good"]


def test_output_of_libraries_does_not_mix_with_answers(videos):
  with decoding("odd_decoders:talks") as child:
    assert len(child.read_frames(videos["good"])) == 12


def test_close_ends_the_process(videos):
  child = decoding("odd_decoders:hangs")
  child.read_frames(videos["good"])
  number = child.pid
  child.close()
  with pytest.raises(ProcessLookupError):
    os.kill(number, 0)
