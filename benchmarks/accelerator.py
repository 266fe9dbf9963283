"""Measures an accelerator: training step, its parts, attention, embedding, PyTorch, and the kernels of a profile.

  python -m benchmarks.accelerator --minutes=8 --out=h100.json [--sizes=b32,b16,l14] [--peer=/path/to/python]

Runs on the devices that JAX finds, in the order of importance: steps of B/32 and B/16 with a profile of each, the same
steps in PyTorch, kinds of attention, parts of the step, compilation from the cache, L/14, embedding, the host's input,
blocks, and larger batches until the memory ends. Every row is written to --out at once, and to the Markdown table
beside it; a row that fails says why. What is unfinished when the time is up is recorded as skipped, and the next call
with the same file measures only that. --peer is the Python of an environment with PyTorch.
"""

import argparse
import contextlib
import pathlib
import time
from collections.abc import Generator, Iterator, Sequence

from benchmarks import accelerator_table
from benchmarks.accelerator_processes import OURS, PEER_BLOCKS, PEER_EMBED, PEER_STEP, Worker, check_peer, peer_result
from benchmarks.accelerator_results import FAILED, MEASURED, OUT_OF_MEMORY, SKIPPED, Result, Results, Row
from benchmarks.accelerator_rows import MEASUREMENTS, PARTS, config_of, serve
from benchmarks.train_step import TINY
from clipvip_jax.distributed import sharding
from clipvip_jax.models.clip_vip import DTYPES
from clipvip_jax.utils.cli import Parser, check_ranges, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.progress import format_duration, report_periodically

# Clips per device of a size's first step, which is halved where memory ends; another size starts with 8, a CPU with 2.
FIRST_BATCH = {"b32": 64, "b16": 32, "l14": 8, TINY: 4}
KINDS = (*(kind for kind in MEASUREMENTS if kind != "device"), *OURS)
_LONGEST = 0.5  # share of the time that one row may take
_REPORT_INTERVAL = 15.0  # seconds


def plan(options: argparse.Namespace, device: Result) -> Generator[Row, Result, None]:
  """Yields the rows to measure, the most important first, and receives the result of each.

  Args:
    options: of the command.
    device: see accelerator_rows.Bench.device.
  """
  batches: dict[str, int] = {}  # of each size's first step that fits
  fitting: list[str] = []  # sizes whose first batch fits
  sizes = options.sizes
  first, others = sizes[:2], sizes[2:]

  def of(kinds: Sequence[str], sizes: Sequence[str], *choices: str) -> Iterator[Row]:
    return (Row(kind, size, batches[size], choice) for size in sizes for kind in kinds for choice in choices or ("",))

  def steps(size: str) -> Generator[Row, Result, None]:
    first_batch = batch = options.batch or _first_batch(size, device)
    result = yield Row("step", size, batch)
    while result["status"] == OUT_OF_MEMORY and batch > device["devices"]:
      batch //= 2
      result = yield Row("step", size, batch)
    batches[size] = batch
    fitting.extend([size] if result["status"] == MEASURED and batch == first_batch else [])
    if result["status"] in (MEASURED, SKIPPED):
      yield Row("profile", size, batch)

  def attention(size: str) -> Generator[Row, Result, None]:
    measured = []
    for name in device["attention"]:
      result = yield Row("attention", size, batches[size], name)
      measured += [name] if result["status"] == MEASURED else []
    automatic = device["automatic"] if device["automatic"] in measured else "xla"
    yield from (Row("step", size, batches[size], name) for name in measured if name != automatic)

  def larger(size: str) -> Generator[Row, Result, None]:
    batch, status = 2 * batches[size], MEASURED
    while status == MEASURED and batch <= options.largest_batch:
      status = (yield Row("step", size, batch))["status"]
      batch *= 2

  for size in first:
    yield from steps(size)
  yield from of([PEER_STEP], first, "compile")
  for size in first:
    yield from attention(size)
  yield from of(PARTS, first)
  yield from of(["compile"], first[:1])
  for size in others:
    yield from steps(size)
  yield from of(["embed"], sizes)
  yield from of(["input"], first[:1])
  yield from of(["blocks"], first)
  yield from of([PEER_BLOCKS], first, "sdpa", "sdpa compile")
  yield from of([PEER_EMBED], first, "compile")
  yield from of([PEER_STEP], others, "compile")
  for size in others:
    yield from attention(size)
  yield from of(PARTS, others)
  for size in fitting:
    yield from larger(size)
  yield from of([PEER_STEP, PEER_EMBED], sizes)


def _first_batch(size: str, device: Result) -> int:
  if device["platform"] == "cpu" and size != TINY:
    return 2 * device["devices"]
  return FIRST_BATCH.get(size, 8) * device["devices"]


class Session:
  """One call of the command: measures rows until the time is up."""

  def __init__(self, options: argparse.Namespace, worker: Worker, results: Results):
    self._options, self._worker, self._results = options, worker, results
    self._deadline = time.monotonic() + 60 * options.minutes

  def run(self) -> None:
    """Measures the rows of `plan`, and records those without time as skipped.

    Raises:
      UserError: JAX does not start, the devices do not divide --batch, or the file has results of other devices.
    """
    try:
      device = self._worker.measure(Row("device"), self._left())
    except TimeoutError:
      raise UserError(f"--minutes={self._options.minutes:g}: JAX has not started in this time; use more") from None
    if device["status"] != MEASURED:
      raise UserError(f"JAX has no device ({device['reason']}); install JAX and drivers for it")
    if self._options.batch:
      sharding.check_batch_size(self._options.batch, "--batch", {sharding.DATA: device["devices"], sharding.FSDP: 1})
    self._results.start(device)
    log.info("%d x %s; results are in %s", device["devices"], device["device"], self._options.out)
    rows = plan(self._options, device)
    with contextlib.suppress(StopIteration):
      row = next(rows)
      while True:
        row = rows.send(self._result(row))

  def _result(self, row: Row) -> Result:
    if row.kind not in self._options.rows:
      return {"status": SKIPPED}
    result = self._results.known(row) or self._measure(row)
    if result["status"] == MEASURED and row.kind in OURS and (ours := self._results.find(OURS[row.kind], row)):
      result["speedup"] = ours["clips_per_second"] / result["clips_per_second"]
    self._results.add(row, result)
    log.info("%s left | %s: %s", format_duration(self._left()), row, accelerator_table.summary(result))
    return result

  def _measure(self, row: Row) -> Result:
    if row.kind in OURS and not self._options.peer:
      return {"status": SKIPPED, "reason": "--peer is not set"}
    started, limit = time.monotonic(), min(self._left(), 60 * self._options.minutes * _LONGEST)
    if not limit:
      return {"status": SKIPPED, "reason": "out of time"}
    try:
      with report_periodically(
        lambda: f"{format_duration(self._left())} left | still measuring {row}", interval=_REPORT_INTERVAL
      ):
        if row.kind not in OURS:
          return self._worker.measure(row, limit)
        self._worker.close()  # frees the memory of the devices
        return peer_result(self._options.peer, row, self._results.device, limit)
    except TimeoutError:
      took = format_duration(time.monotonic() - started)
      if self._left():
        return {"status": FAILED, "reason": f"no result after {took}"}
      return {"status": SKIPPED, "reason": f"out of time after {took}"}

  def _left(self) -> float:
    return max(self._deadline - time.monotonic(), 0.0)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  """Parses the command line.

  Raises:
    UserError: an unknown size or kind of rows, or a number or path that cannot be used.
  """
  parser = Parser(__doc__)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="file of results, JSON; a table is beside it")
  parser.add_argument("--minutes", type=float, default=8.0, help="of all rows together")
  parser.add_argument("--sizes", default="b32,b16,l14", help="variants of post_pretrain, as l14+remat, or tiny")
  parser.add_argument("--rows", default=",".join(KINDS), help=f"kinds of rows: {', '.join(KINDS)}")
  parser.add_argument("--batch", type=int, default=0, help="clips of the first steps, over all devices; 0: by size")
  parser.add_argument("--largest_batch", type=int, default=2**20, help="where larger batches end before the memory")
  parser.add_argument("--dtype", default="", choices=("", *DTYPES), help="default: bfloat16; float32 on a CPU")
  parser.add_argument("--peer", default="", help="Python with PyTorch")
  options = parser.parse_args(arguments)
  check_ranges(options, (("minutes", 0.01, 1e4), ("batch", 0, 2**20), ("largest_batch", 1, 2**20)))
  options.sizes, options.rows = options.sizes.split(","), options.rows.split(",")
  if len({*options.sizes}) < len(options.sizes) or "" in options.sizes:
    raise UserError(f"--sizes={','.join(options.sizes)} has an empty or a repeated size; name each once")
  for size in options.sizes:
    config_of(Row("step", size, 1))
  for kind in options.rows:
    if kind not in KINDS:
      raise UserError(f"--rows={kind} is unknown; allowed: {', '.join(KINDS)}")
  if options.out.suffix == ".md":
    raise UserError(f"--out={options.out}: the table is written there; use a name that ends with .json")
  if not options.out.parent.is_dir():
    raise UserError(f"--out={options.out}: the folder does not exist; create it")
  return options


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures, and prints the table."""
  options = parse(arguments)
  results = Results(options.out)
  if options.peer:
    check_peer(options.peer)
  with contextlib.closing(Worker(serve, options.dtype)) as worker:
    Session(options, worker, results).run()
  print(options.out.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
