"""Benchmark of corpora in buckets: clips per second from emulators on localhost, beside a local disk.

  python -m benchmarks.buckets [--seconds=6]

The corpus and the clips are those of benchmarks.throughput. The emulators answer each request after 0, 5 and 20 ms. A
new process makes each measurement, with threads. Without a cache, records on gs:// are read by a request each;
corpora on s3:// always have a cache. Of two rows with a cache, the process of the first has downloaded the corpus.
Emulators share the cores of this machine with the pipeline.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.throughput import BATCH, CLIPS, DRAWN, FRAMES, camera_frames
from tests.support import buckets, written_corpus

LATENCIES = (0.0, 0.005, 0.02)  # seconds
_RATE = re.compile(r"([\d.]+) clips/s")


def write_corpus(folder: pathlib.Path) -> None:
  """Writes the clips of benchmarks.throughput as configuration `camera` of video_manifest."""
  import simplejpeg

  rng = np.random.default_rng(0)
  records = (
    {
      "id": f"clip{number}",
      "frames": [simplejpeg.encode_jpeg(x, 92, colorsubsampling="420") for x in camera_frames(rng)],
      "subtitle": "what somebody says meanwhile",
      "caption": "a soft picture",
    }
    for number in range(CLIPS)
  )
  written_corpus.write(folder, records, name="video_manifest", config="camera")


def measure(data_dir: str, seconds: float, cache: pathlib.Path) -> tuple[float, float]:
  """Returns (clips per second, seconds of the command) of a new process."""
  command = [sys.executable, "-m", "clipvip_jax.data_tool", "throughput", "video_manifest", "--config=camera"]
  command += [f"--data_dir={data_dir}", "--workers=0", f"--batch_size={BATCH}", f"--num_frames={DRAWN}"]
  command += [f"--seconds={seconds}", f"--cache_dir={cache}" if cache.name else "--cache_dir="]
  started = time.perf_counter()
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
  if done.returncode:
    sys.exit(done.stderr)
  return float(_RATE.search(done.stdout)[1]), time.perf_counter() - started


def main() -> None:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement (default 6)")
  options = parser.parse_args()
  none = pathlib.Path()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    write_corpus(folder / "corpora")
    print(f"{CLIPS} clips of {FRAMES} frames; clips/s, ratio to the disk, seconds of the process:", flush=True)
    local, elapsed = measure(str(folder / "corpora"), options.seconds, none)
    print(f"{'local disk':32} {local:7.1f}  1.00  {elapsed:5.1f} s", flush=True)

    def report(name: str, data_dir: str, cache: pathlib.Path) -> None:
      rate, elapsed = measure(data_dir, options.seconds, cache)
      print(f"{name:32} {rate:7.1f}  {rate / local:.2f}  {elapsed:5.1f} s", flush=True)

    for scheme in buckets.STORES:
      with buckets.fresh(scheme) as bucket:
        data_dir = bucket.upload(folder / "corpora", "corpora")
        for latency in LATENCIES:
          name, cache = f"{scheme}, {1000 * latency:2.0f} ms", folder / f"cache_{scheme}_{latency}"
          with bucket.faults(latency=latency):
            if scheme == "gs":
              report(f"{name}, without cache", data_dir, none)
            report(f"{name}, new cache", data_dir, cache)
            report(f"{name}, filled cache", data_dir, cache)


if __name__ == "__main__":
  main()
