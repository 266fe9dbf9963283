"""Kernels of a trace of jax.profiler, by the module of the model that they compute.

The profiler records a kernel with the name of its instruction in the compiled program, whose text names the operation
that it comes from: `jit(step)/transpose(jvp(ClipVip.embed_video))/vision/transformer/block_3/mlp/up/dot_general` is
the backward pass of a dense layer.
"""

import collections
import dataclasses
import pathlib
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from clipvip_jax.cost_model import hbm_traffic

_NUMBER = re.compile(r"(?:\.\d+)+$")
_INSTRUCTION = re.compile(r"%?([\w.\-]+)(?: = |$)")
_OPS_LINE = "XLA Ops"  # of a TPU, whose events are named by the text of their instructions


@dataclasses.dataclass(frozen=True)
class Kernel:
  """Kernels of one kind in one module.

  Attributes:
    module: as in hbm_traffic.module_of, with blocks together.
    direction: "forward", "backward", or "" outside of the model.
    name: of the instruction, without its number.
    seconds: per step, over all devices or threads.
    count: executions per step.
  """

  module: str
  direction: str
  name: str
  seconds: float
  count: float


def trace(call: Callable[[], Any], steps: int) -> jax.profiler.ProfileData:
  """Traces calls, each of which is awaited, after one that is not traced."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level, options.host_tracer_level = 0, 1
  jax.block_until_ready(call())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder, profiler_options=options):
      for _ in range(steps):
        jax.block_until_ready(call())
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    return jax.profiler.ProfileData.from_file(str(path))


def kernels(profile: jax.profiler.ProfileData, hlo: str, steps: int) -> list[Kernel]:
  """Returns the kernels of a program, those with the most time first.

  Args:
    profile: see `trace`.
    hlo: text of the compiled program.
    steps: number of traced steps.
  """
  origins = hbm_traffic.op_names(hlo)
  seconds: collections.Counter[tuple[str, str, str]] = collections.Counter()
  counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
  for instruction, duration in _instructions(profile):
    if instruction in origins:
      key = (*_origin(origins[instruction]), _NUMBER.sub("", instruction))
      seconds[key] += duration
      counts[key] += 1
  return [Kernel(*key, total / steps, counts[key] / steps) for key, total in seconds.most_common()]


def _origin(op_name: str) -> tuple[str, str]:
  """Returns (module, direction) of an operation."""
  module = hbm_traffic.module_of(op_name)
  if not module:
    return hbm_traffic.OTHER, ""
  return module, "backward" if hbm_traffic.is_backward(op_name) else "forward"


def _instructions(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, float]]:
  """Yields (instruction, seconds without those of instructions within it) of every execution."""
  for plane in profile.planes:
    for line in plane.lines:
      events = [(e.start_ns, -e.duration_ns, name) for e in line.events if (name := _instruction(e, line.name))]
      yield from _own_seconds(events)


def _instruction(event: Any, line: str) -> str:
  """Returns the name of the instruction of an event; "" for other events."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the binding's type
    stats = dict(event.stats)
  if name := stats.get("hlo_op"):
    return str(name)
  match = _INSTRUCTION.match(event.name) if line == _OPS_LINE else None
  return match[1] if match else ""


def _own_seconds(events: Iterable[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
  """Yields (name, seconds) of nested (start, -duration, name) in nanoseconds, such as a loop and its body."""
  open_events: list[tuple[float, str, list[float]]] = []  # (end, name, [own nanoseconds])
  for start, negative, name in sorted(events):
    while open_events and open_events[-1][0] <= start:
      _, done, own = open_events.pop()
      yield done, own[0] / 1e9
    if open_events:
      open_events[-1][2][0] += negative
    open_events.append((start - negative, name, [-negative]))
  for _, name, own in reversed(open_events):
    yield name, own[0] / 1e9
