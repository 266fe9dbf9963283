"""Collectives of a compiled program, parsed from its HLO text."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from clipvip_jax.cost_model.collective import ALL_GATHER, ALL_REDUCE, KINDS, PERMUTE, REDUCE_SCATTER, Collective

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(
  rf"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+(?:e\w+)?)\[([\d,]*)\]")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_LISTS = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\](?:<=\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?)?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*\))? ?\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?:=|:\(\d+\))?(\d+)?")
_CHAIN = re.compile(r'\bchain_id="\d+"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


def read_collectives(hlo: str, devices: int) -> list[Collective]:
  """Returns the collectives of a compiled program.

  Collectives in a loop count once per iteration if the trip count is known, else once.

  Args:
    hlo: `compiled.as_text()`.
    devices: number of devices that the program runs on.
  """
  bodies = dict(_computations(hlo))
  times = _times(bodies)
  collectives, chains = [], set()
  for name, lines in bodies.items():
    # On TPUs a fusion of this name is a reduce-scatter: an all-reduce of which each chip keeps a slice.
    scatters = "all-reduce-scatter" in name
    for match in filter(None, map(_INSTRUCTION.match, lines)):
      # TPUs overlap a collective with computation; each overlapped kernel repeats the instruction with one chain id.
      chain = _CHAIN.search(match["rest"])
      if times[name] and not (chain and chain[0] in chains):
        collectives.append(_collective(match, devices, times[name], scatters))
        chains |= {chain[0]} if chain else set()
  return collectives


def _computations(hlo: str) -> Iterable[tuple[str, list[str]]]:
  """Yields (name, lines) of every computation; the entry computation has the name ""."""
  name: str | None = None
  lines: list[str] = []
  for line in hlo.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      name, lines = "" if line.startswith("ENTRY") else start[1], []
    elif line.startswith("}") and name is not None:
      yield name, lines
      name = None
    elif name is not None:
      lines.append(line)


def _times(bodies: Mapping[str, list[str]]) -> dict[str, int]:
  """Returns the executions of each computation per execution of the entry."""
  called: dict[str, list[tuple[str, int]]] = {}
  for name, lines in bodies.items():
    for line in lines:
      trips = _TRIPS.search(line)
      for names in _CALLS.findall(line):
        for callee in re.findall(r"[\w.\-]+", names):
          called.setdefault(callee, []).append((name, int(trips[1]) if trips else 1))
  executions = {"": 1}

  def count(name: str) -> int:
    if name not in executions:
      executions[name] = sum(times * count(caller) for caller, times in called.get(name, ()))
    return executions[name]

  for name in bodies:
    count(name)
  return executions


def _collective(match: re.Match[str], devices: int, times: int, scatters: bool) -> Collective:
  kind, rest = match["kind"], match["rest"]
  group = _group(rest, devices)
  arrays = _tuple_elements(match["type"])
  if match["start"] and kind in (ALL_GATHER, PERMUTE):  # (operands, results, ...)
    arrays = arrays[1:2]
  size = sum(_bytes(array) for array in arrays)
  if kind == REDUCE_SCATTER:
    size *= group
  origin = _OP_NAME.search(rest)
  kind = REDUCE_SCATTER if scatters and kind == ALL_REDUCE else kind
  return Collective(kind, size, group, times, origin[1] if origin else "", _span(rest, group))


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


def _tuple_elements(text: str) -> list[str]:
  """Returns the elements of a tuple type, or the type itself."""
  text = re.sub(r"/\*.*?\*/", "", text)
  if not text.startswith("("):
    return [text]
  elements, depth = [""], 0
  for character in text[1:-1]:
    depth += (character in "([{") - (character in ")]}")
    if character == "," and not depth:
      elements.append("")
    else:
      elements[-1] += character
  return elements


def _bytes(text: str) -> int:
  return sum(_width(kind) * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in _ARRAY.findall(text))


def _width(kind: str) -> int:
  """Returns the bytes of an element; types below a byte take one."""
  bits = re.search(r"\d+", kind)
  return max(1, int(bits[0]) // 8) if bits else 1
