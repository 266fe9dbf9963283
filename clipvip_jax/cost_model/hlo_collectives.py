"""Collectives of a compiled program, parsed from its HLO text."""

import math
import re

import numpy as np

from clipvip_jax.cost_model import hlo_text
from clipvip_jax.cost_model.collective import ALL_REDUCE, KINDS, REDUCE_SCATTER, Collective

_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_LISTS = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\](?:<=\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?)?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? ?\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?:=|:\(\d+\))?(\d+)?")
_CHAIN = re.compile(r'\bchain_id="\d+"')


def read_collectives(hlo: str, devices: int) -> list[Collective]:
  """Returns the collectives of a compiled program.

  Collectives in a loop count once per iteration if the trip count is known, else once.

  Args:
    hlo: `compiled.as_text()`.
    devices: number of devices that the program runs on.
  """
  bodies = dict(hlo_text.computations(hlo))
  times = hlo_text.executions(bodies)
  collectives, chains = [], set()
  for name, lines in bodies.items():
    # On TPUs a fusion of this name is a reduce-scatter: an all-reduce of which each chip keeps a slice.
    scatters = "all-reduce-scatter" in name
    for instruction in hlo_text.instructions(lines):
      if instruction.op.removesuffix("-start") not in KINDS:
        continue
      # TPUs overlap a collective with computation; each overlapped kernel repeats the instruction with one chain id.
      chain = _CHAIN.search(instruction.rest)
      if times[name] and not (chain and chain[0] in chains):
        collectives.append(_collective(instruction, devices, times[name], scatters))
        chains |= {chain[0]} if chain else set()
  return collectives


def _collective(instruction: hlo_text.Instruction, devices: int, times: int, scatters: bool) -> Collective:
  kind, rest = instruction.op.removesuffix("-start"), instruction.rest
  group = _group(rest, devices)
  size = sum(array.size for array in instruction.results)
  if kind == REDUCE_SCATTER:
    size *= group
  kind = REDUCE_SCATTER if scatters and kind == ALL_REDUCE else kind
  return Collective(kind, size, group, times, instruction.op_name, _span(rest, group))


def _group(rest: str, devices: int) -> int:
  """Returns the size of a group in `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['a'=2,'b'=2] {'b'}`; default: all devices."""
  if match := _IOTA.search(rest):
    return int(match[1])
  if match := _NAMED.search(rest):
    sizes = dict(_AXIS.findall(match[1]))
    return math.prod(int(size or sizes[axis]) for axis, size in _AXIS.findall(match[2]))
  match = _LISTED.search(rest)
  return len(match[1].split(",")) if match and match[1] else devices


def _span(rest: str, group: int) -> int:
  """Returns the span of the widest group; 5 for `[4,2]<=[2,4]T(1,0)`, whose groups are {0,4}, {1,5}, ..."""
  if (match := _IOTA.search(rest)) and match["shape"]:
    shape, order = ([int(n) for n in (match[name] or "").split(",") if n] for name in ("shape", "order"))
    chips = np.arange(math.prod(shape)).reshape(shape).transpose(order or None).reshape(-1, group)
    return int(np.ptp(chips, axis=1).max()) + 1
  if match := _LISTS.search(rest):
    groups = [[int(n) for n in ids.split(",")] for ids in re.findall(r"\{([\d,]+)\}", match[1])]
    return max(max(ids) - min(ids) for ids in groups) + 1
  return group
