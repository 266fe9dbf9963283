"""Processes in which `benchmarks/accelerator.py` measures: one that holds the devices, and PyTorch's."""

import multiprocessing
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

from benchmarks import blocks
from benchmarks.accelerator_results import FAILED, MEASURED, Result, Row, Unsupported, failure
from benchmarks.accelerator_rows import blocks_options, config_of
from benchmarks.peer import run_peer
from clipvip_jax.utils.errors import UserError, first_line

ROOT = pathlib.Path(__file__).parent.parent
PEER_STEP, PEER_EMBED, PEER_BLOCKS = "PyTorch step", "PyTorch embed", "PyTorch blocks"
_HAS_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
OURS = {PEER_STEP: "step", PEER_EMBED: "embed", PEER_BLOCKS: "blocks"}


class Worker:
  """Process that holds the devices, started at its first row and again after its death."""

  def __init__(self, serve: Callable[..., None], *args: Any):
    """`serve` is called with a connection and `args`; see accelerator_rows.serve."""
    self._serve, self._args = serve, args
    self._process: Any = None
    self._connection: Any = None

  def measure(self, row: Row, seconds: float) -> Result:
    """Measures a row; the result is a failure if the process dies.

    Raises:
      TimeoutError: it took longer than `seconds`; the process is killed.
    """
    if self._process is None:
      self._start()
    try:
      self._connection.send(row)
      if self._connection.poll(seconds):
        return self._connection.recv()
    except (EOFError, OSError):
      self._process.join()
      code = self._process.exitcode
      self.close()
      return {"status": FAILED, "reason": f"the process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"}
    self.close()
    raise TimeoutError

  def _start(self) -> None:
    context = multiprocessing.get_context("spawn")
    self._connection, other = context.Pipe()
    self._process = context.Process(target=self._serve, args=(other, *self._args))
    self._process.start()
    other.close()

  def close(self) -> None:
    """Kills the process, which frees the devices."""
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._connection.close()
      self._process = None


def check_peer(python: str) -> None:
  """Checks that a program is the Python of an environment with PyTorch.

  Raises:
    UserError: it is not.
  """
  try:
    code = subprocess.run([python, "-c", _HAS_TORCH], capture_output=True, check=False).returncode
  except OSError as error:
    raise UserError(f"--peer={python}: {first_line(error)}; use the Python of an environment with PyTorch") from None
  if code:
    raise UserError(f"--peer={python} is not a Python with PyTorch; install torch in its environment, or use another")


def peer_result(python: str, row: Row, device: Result, seconds: float) -> Result:
  """Measures PyTorch in its own environment.

  Args:
    python: of the environment.
    row: of a kind of OURS; its option has PyTorch's options.
    device: see accelerator_rows.Bench.device.
    seconds: after which the measurement is killed.

  Raises:
    TimeoutError: it took longer.
  """
  try:
    platform = {"gpu": "cuda", "cpu": "cpu"}.get(device["platform"])
    if not platform:
      raise Unsupported(f"the PyTorch peer does not run on {device['device']}")
    flags = [f"--device={platform}", *(f"--{option}" for option in row.option.split())]
    if row.kind == PEER_BLOCKS:
      script, sizes = "torch_blocks.py", blocks.sizes(blocks_options(row, device["dtype"]))
    else:
      if device["devices"] > 1:
        raise Unsupported(f"the PyTorch peer uses one device, ours {device['devices']}; set CUDA_VISIBLE_DEVICES=0")
      script, sizes = "torch_step.py", _peer_sizes(row, device["dtype"])
    measured = run_peer([python, str(ROOT / "benchmarks" / script), *sizes, *flags], seconds)
  except TimeoutError:
    raise
  except Exception as error:
    return failure(error)
  if row.kind == PEER_BLOCKS:
    times = {"seconds": measured["forward_backward_s"], "forward_seconds": measured["forward_s"]}
  else:
    times = {"seconds": measured["seconds"]}
  return {"status": MEASURED, **times, "clips_per_second": row.batch / times["seconds"], "peer": measured}


def _peer_sizes(row: Row, dtype: str) -> list[str]:
  data, (model, *variants) = config_of(row).data, row.size.split("+")
  if others := {*variants} - {"remat"}:
    raise Unsupported(f"the PyTorch peer has no variant {min(others)}")
  sizes = {"model": model, "batch": row.batch, "frames": data.num_frames}
  sizes |= {"what": "step" if row.kind == PEER_STEP else "videos", "text_length": data.text_length, "dtype": dtype}
  return [f"--{name}={value}" for name, value in sizes.items()]
