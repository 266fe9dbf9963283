"""Benchmark of search in a large video index: loading, one query, 16 queries, memory, and recall of the graph.

  python -m benchmarks.search [--rows=1000000] [--size=512] [--graph_rows=50000] [--folder=DIR]

Writes an index of random features in clusters, as those of videos are, and reads it in a process of its own, so that
the memory is that of loading and searching. The model that embeds queries is not part of it. Times are the best of
--repeats passes over a file in the page cache. Processor time is that of all threads: with other programs on the
machine, the time on an idle one is between it and its share per core. --graph_rows=0 omits the graph, which takes
minutes to build for a million rows.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from clipvip_jax.inference import approximate_index, feature_file, nearest_rows, video_index

_TOP, _QUERIES = 10, 16
_CLUSTER = 100  # rows of a cluster


def random_rows(first: int, count: int, size: int) -> np.ndarray:
  """Returns rows [count, size] of unit length; those of a cluster are 0.5 to 0.6 similar."""
  rng = np.random.default_rng(first)
  centres = rng.normal(size=(-(-count // _CLUSTER), size)).repeat(_CLUSTER, 0)[:count]
  rows = (centres + 0.9 * rng.normal(size=(count, size))).astype(np.float32)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_random_index(path: pathlib.Path, rows: int, size: int) -> None:
  """Writes an index of random features."""

  def blocks() -> Iterator[np.ndarray]:
    for first in range(0, rows, 2**16):
      yield random_rows(first, min(2**16, rows - first), size)

  fields = {"videos": [f"videos/{row // 1000:06d}/{row:09d}.mp4" for row in range(rows)], "source": "random"}
  fields |= {"identity": "random", "bad": [], "reasons": [], "crop": "squash"}
  feature_file.write_features(path, {"features": feature_file.RowBlocks((rows, size), blocks)}, fields)


def memory_mib(name: str) -> float:
  """Returns memory of this process from /proc: "VmHWM" is the peak, "VmRSS" the present."""
  status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  match = re.search(rf"{name}:\s+(\d+) kB", status)
  return int(match[1]) / 1024 if match else float("nan")


def best_of(call: Callable[[], object], repeats: int) -> tuple[float, float]:
  """Returns the shortest duration of a call in seconds, and the least processor time of all threads."""
  times = []
  for _ in range(repeats):
    started = time.perf_counter(), time.process_time()
    call()
    times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
  wall, processor = zip(*times, strict=True)
  return min(wall), min(processor)


def measure_exact(path: pathlib.Path, repeats: int) -> None:
  """Loads and searches an index exactly, and prints times and memory."""

  def measure(name: str, call: Callable[[], object], repeats: int = repeats) -> None:
    wall, processor = best_of(call, repeats)
    print(f"{name:28}{wall:7.3f} s, processor time {processor:7.3f} s", flush=True)

  before = memory_mib("VmRSS")
  index = video_index.read_index(path)
  peak = memory_mib("VmHWM")
  queries = random_rows(0, _QUERIES * _CLUSTER, index.features.shape[1])[::_CLUSTER]
  selected = np.arange(len(index.videos)) % 100 == 0
  measure("1 query", lambda: nearest_rows.find_nearest(queries[:1], index.features, _TOP))
  measure(f"{_QUERIES} queries", lambda: nearest_rows.find_nearest(queries, index.features, _TOP))
  measure("1 query in 1% of the rows", lambda: nearest_rows.find_nearest(queries[:1], index.features, _TOP, selected))
  peak = max(peak, memory_mib("VmHWM"))
  measure("loading, with verification", lambda: video_index.read_index(path), 2)
  print(f"peak memory of loading and searching: {peak:.0f} MiB, of which {before:.0f} MiB Python and its packages")


def measure_graph(path: pathlib.Path) -> None:
  """Builds and searches a graph, and prints times and its recall."""
  index = video_index.read_index(path)
  queries = random_rows(1, 256 * _CLUSTER, index.features.shape[1])[::_CLUSTER]
  queries += index.features[:256] * 0.9  # near a video, as a text is
  queries /= np.linalg.norm(queries, axis=1, keepdims=True)
  started = time.perf_counter()
  graph = approximate_index.open_graph(path, index)
  print(f"graph of {len(index.videos)} rows: built in {time.perf_counter() - started:.1f} s")
  expected = nearest_rows.find_nearest(queries, index.features, _TOP)
  found = graph.find_nearest(queries, _TOP)
  pairs = zip(expected, found, strict=True)
  recall = np.mean([len({row for row, _ in exact} & {row for row, _ in rows}) / len(exact) for exact, rows in pairs])
  wall, _ = best_of(lambda: graph.find_nearest(queries, _TOP), 3)
  print(f"recall@{_TOP} {recall:.3f}, {1000 * wall / len(queries):.2f} ms per query")


def main() -> None:
  """Writes the index and measures it in a new process."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", type=int, default=1_000_000)
  parser.add_argument("--size", type=int, default=512)
  parser.add_argument("--graph_rows", type=int, default=50_000)
  parser.add_argument("--repeats", type=int, default=5, help="of each search; the shortest counts (default 5)")
  parser.add_argument("--folder", type=pathlib.Path, help="for the index; default: a temporary one")
  parser.add_argument("--read", type=pathlib.Path, help=argparse.SUPPRESS)  # the process that measures
  options = parser.parse_args()
  if options.read:
    measure_exact(options.read, options.repeats)
    return
  with tempfile.TemporaryDirectory(dir=options.folder) as folder:
    path = pathlib.Path(folder, "index.safetensors")
    write_random_index(path, options.rows, options.size)
    print(f"index of {options.rows} x {options.size}, {path.stat().st_size / 2**20:.0f} MiB", flush=True)
    subprocess.run(
      [sys.executable, "-m", "benchmarks.search", f"--read={path}", f"--repeats={options.repeats}"], check=True
    )
    if options.graph_rows:
      write_random_index(path, options.graph_rows, options.size)
      measure_graph(path)


if __name__ == "__main__":
  main()
