"""Building a corpus with one process and with two, and whether memory grows with it.

  python -m benchmarks.build_corpus

Clips are H.264, 320 x 240, 44 frames at 12 a second, each frame stored. Prints seconds and the peak memory of all
processes together (resident, shared pages counted once each process) for 200 and 2,000 clips with one process and 2,000
with two, and their ratios. Linux only: memory is read from /proc.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from clipvip_jax.input_pipeline.video_encoder import encode_h264

VIDEOS, FRAMES, FPS, HEIGHT, WIDTH = 40, 44, 12, 240, 320
RUNS = ((200, 1), (2000, 1), (2000, 2))  # clips, processes
PAGE = 4096


def write_videos(folder: pathlib.Path) -> None:
  """A window that slides over a soft random picture, and some noise, as a camera has it."""
  import cv2

  for number in range(VIDEOS):
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (WIDTH + FRAMES, HEIGHT + FRAMES), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    frames = np.stack([wide[t : t + HEIGHT, t : t + WIDTH] for t in range(FRAMES)])
    frames += rng.integers(-6, 7, frames.shape, dtype=np.int16)
    encode_h264(folder / f"{number}.mp4", frames.clip(0, 255).astype(np.uint8), FPS, quantiser=23)


def children(number: int) -> list[int]:
  """A process and all that it has started, directly or not."""
  found = [number]
  for file in pathlib.Path(f"/proc/{number}/task").glob("*/children"):
    for child in file.read_text().split():
      found += children(int(child))
  return found


def memory(number: int) -> int:
  """Resident bytes of a process and its children."""
  total = 0
  try:
    for process in children(number):
      total += int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
  except OSError:  # one has just ended
    return 0
  return total


def build(folder: pathlib.Path, clips: int, workers: int) -> tuple[float, int]:
  """(seconds, peak of memory in bytes)."""
  manifest = folder / f"{clips}.jsonl"
  rows = [{"id": str(n), "video": f"{n % VIDEOS}.mp4", "text": f"clip {n}"} for n in range(clips)]
  manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  command = [sys.executable, "-m", "clipvip_jax.data_tool", "build", str(manifest), "--config=all_frames"]
  started, peak = time.perf_counter(), 0
  with tempfile.TemporaryDirectory(dir=folder) as target:
    with (folder / "log").open("w") as log:
      process = subprocess.Popen([*command, f"--data_dir={target}", f"--workers={workers}"], stdout=log, stderr=log)
      while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - started
  if process.returncode:
    sys.exit((folder / "log").read_text())
  return seconds, peak


def main() -> None:
  """Prints the figures."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_videos(folder)
    found = {}
    for clips, workers in RUNS:
      seconds, peak = found[clips, workers] = build(folder, clips, workers)
      print(
        f"{clips:5d} clips, {workers} process{'es' * (workers > 1)}: {seconds:6.1f} s, {clips / seconds:5.1f} clips/s,"
        f" peak {peak / 2**20:.0f} MiB",
        flush=True,
      )
    one, two, few = found[2000, 1], found[2000, 2], found[200, 1]
    print(f"two processes take {two[0] / one[0]:.2f} of the time of one")
    print(f"2,000 clips take {one[1] / few[1]:.2f} of the memory of 200")


if __name__ == "__main__":
  main()
