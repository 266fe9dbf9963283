"""Benchmark of corpus builds: time with one and two processes, and peak memory over the number of clips.

  python -m benchmarks.build_corpus

Clips are H.264, 320 x 240, 44 frames at 12 per second, every frame stored. Prints seconds and peak resident memory
summed over all processes (shared pages count once per process), for 200 and 2,000 clips with one process and 2,000 with
two, and their ratios. Linux only: reads memory from /proc.
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
  """Writes videos of a window that slides over a smooth random image, with sensor noise."""
  import cv2

  for number in range(VIDEOS):
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (WIDTH + FRAMES, HEIGHT + FRAMES), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    frames = np.stack([wide[t : t + HEIGHT, t : t + WIDTH] for t in range(FRAMES)])
    frames += rng.integers(-6, 7, frames.shape, dtype=np.int16)
    encode_h264(folder / f"{number}.mp4", frames.clip(0, 255).astype(np.uint8), FPS, quantiser=23)


def process_tree(number: int) -> list[int]:
  """Returns the ids of a process and all its descendants."""
  processes = [number]
  for file in pathlib.Path(f"/proc/{number}/task").glob("*/children"):
    for child in file.read_text().split():
      processes += process_tree(int(child))
  return processes


def memory(number: int) -> int:
  """Returns the resident bytes of a process and its descendants; 0 if one of them has just ended."""
  total = 0
  try:
    for process in process_tree(number):
      total += int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
  except OSError:
    return 0
  return total


def build(folder: pathlib.Path, clips: int, workers: int) -> tuple[float, int]:
  """Builds a corpus; returns (seconds, peak memory in bytes)."""
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
  """Builds all corpora and prints the figures."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_videos(folder)
    results = {}
    for clips, workers in RUNS:
      seconds, peak = results[clips, workers] = build(folder, clips, workers)
      print(
        f"{clips:5d} clips, {workers} process{'es' * (workers > 1)}: {seconds:6.1f} s, {clips / seconds:5.1f} clips/s,"
        f" peak {peak / 2**20:.0f} MiB",
        flush=True,
      )
    one, two, few = results[2000, 1], results[2000, 2], results[200, 1]
    print(f"time with two processes / with one: {two[0] / one[0]:.2f}")
    print(f"memory for 2,000 clips / for 200: {one[1] / few[1]:.2f}")


if __name__ == "__main__":
  main()
