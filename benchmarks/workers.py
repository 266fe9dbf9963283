"""Throughput of this project's worker processes against Grain's, on the same batches in one run.

  python -m benchmarks.workers [--rounds=3] [--seconds=8] [--workers=1 2]

Both load the same tasks (`input_pipeline.pipeline.BatchTasks`) of the corpus of `benchmarks.throughput`: shuffled
clips of 12 frames at 224 x 224 in normalised float32, in batches of 16. Rounds alternate between the two, each in a
separate process. Prints clips per second: the median over the rounds, and its ratio to Grain's.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.throughput import BATCH, CLIPS, DRAWN, SIZE, open_corpus, write_corpus

WARM_UP_BATCHES = 4


def batches(kind: str, folder: str, num_workers: int) -> Iterator[dict]:
  """Iterates over batches, loaded by `kind` "ours" or "grain"."""
  import grain
  from absl import flags

  from clipvip_jax.input_pipeline import workers
  from clipvip_jax.input_pipeline.pipeline import BatchTasks, RecordSampler, WeightedStream
  from clipvip_jax.input_pipeline.throughput import training_batcher

  batcher = training_batcher(open_corpus(folder), "train", DRAWN, SIZE)
  tasks = BatchTasks([WeightedStream(batcher, RecordSampler(CLIPS, BATCH, seed=0))], 0, 10**6)
  if kind == "ours":
    return workers.run(tasks, [batcher], num_workers)
  flags.FLAGS.mark_as_parsed()  # Grain reads its options as flags
  dataset = grain.MapDataset.source(tasks).map(lambda task: batcher.batch(task.keys))
  read_options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
  options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
  return iter(dataset.to_iter_dataset(read_options).mp_prefetch(options))


def clips_per_second(kind: str, folder: str, num_workers: int, seconds: float) -> float:
  """Measures one loader after its workers have started."""
  iterator = batches(kind, folder, num_workers)
  for _ in range(WARM_UP_BATCHES):
    next(iterator)
  clips, start = 0, time.perf_counter()
  while time.perf_counter() - start < seconds:
    clips += len(next(iterator)["record"])
  return clips / (time.perf_counter() - start)


def run_once(kind: str, folder: str, num_workers: int, seconds: float) -> float:
  """Measures in a new process."""
  command = [sys.executable, "-m", "benchmarks.workers", "--one", kind, folder, str(num_workers), str(seconds)]
  process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
  """Writes the corpus, measures in alternation, prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3, help="repetitions of each measurement")
  parser.add_argument("--seconds", type=float, default=8.0, help="length of one measurement")
  parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    write_corpus(pathlib.Path(folder))
    for num_workers in options.workers:
      runs: dict[str, list[float]] = {"ours": [], "grain": []}
      for _ in range(options.rounds):
        for kind, values in runs.items():
          values.append(run_once(kind, folder, num_workers, options.seconds))
      ours, grain = (statistics.median(values) for values in runs.values())
      rounds = ", ".join(f"{a / b:.2f}" for a, b in zip(*runs.values(), strict=True))
      speeds = f"ours {ours:.1f} clips/s, Grain's {grain:.1f}"
      print(f"{num_workers} workers: {speeds}, ratio {ours / grain:.2f} (rounds {rounds})", flush=True)


if __name__ == "__main__":
  if sys.argv[1:2] == ["--one"]:
    _, _, kind, folder, num_workers, seconds = sys.argv
    print(json.dumps(clips_per_second(kind, folder, int(num_workers), float(seconds))), flush=True)
    sys.stdout.flush()
    import os

    os._exit(0)  # Grain's workers would delay the exit
  else:
    main()
