"""Parser of the HLO text of a compiled program: instructions, sizes of arrays, executions of computations."""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<op>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
  r"\b(?:calls|to_apply|body|condition|branch_computations|(?:true|false)_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BOUND = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")
_ELEMENT, _INTEGER = re.compile(r"= s(?:32|64)\[\]\S* get-tuple-element\(.*index=(\d+)"), re.compile(r"-?\d+")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+(?:e\w+)?)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
HBM = 0  # memory space of an array without another one


@dataclasses.dataclass(frozen=True)
class Array:
  """An array type, as in `bf16[8,128]{1,0:T(8,128)(2,1)S(1)}`.

  Attributes:
    size: bytes without padding.
    padded: bytes with the padding of its tiles.
    space: memory space; HBM or another memory, on the chip or of the host.
  """

  size: int
  padded: int
  space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction.

  Attributes:
    name: unique in the program.
    op: its operation.
    type: of its result.
    operands: names of the instructions that it takes.
    rest: text from its operands on.
    is_root: whether its result is that of its computation.
  """

  name: str
  op: str
  type: str
  operands: tuple[str, ...]
  rest: str
  is_root: bool

  @functools.cached_property
  def arrays(self) -> list[Array]:
    """The result's arrays; nested tuples are flattened."""
    return arrays(self.type)

  @functools.cached_property
  def results(self) -> list[Array]:
    """The arrays that it writes: those of an asynchronous instruction without its operands and context."""
    elements = tuple_elements(self.type)
    if self.op == "copy-start":  # (copy, source, context)
      return arrays(elements[0])
    is_wrapped = self.op.endswith("-start") and elements[0].startswith("(")  # ((operands), results, context)
    if is_wrapped or self.op in ("all-gather-start", "collective-permute-start"):  # (operands, results, ...)
      return arrays(elements[1])
    return self.arrays

  @property
  def called(self) -> list[str]:
    """Names of the computations that it calls."""
    return [name for names in _CALLS.findall(self.rest) for name in re.findall(r"[\w.\-]+", names)]

  @property
  def op_name(self) -> str:
    """Name of the operation in the traced program, as in "jit(step)/vision/dot_general"; "" if unknown."""
    match = _OP_NAME.search(self.rest)
    return match[1] if match else ""


def computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
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


def instructions(lines: Sequence[str]) -> list[Instruction]:
  """Parses the lines of a computation."""
  return [
    Instruction(
      match["name"],
      match["op"],
      match["type"],
      tuple(_NAME.findall(_arguments(match["rest"]))),
      match["rest"],
      bool(match["root"]),
    )
    for match in map(_INSTRUCTION.match, lines)
    if match
  ]


def _arguments(rest: str) -> str:
  """Returns the text up to the parenthesis that closes the operands."""
  depth = 1
  for index, character in enumerate(rest):
    depth += (character == "(") - (character == ")")
    if not depth:
      return rest[:index]
  return rest


def executions(bodies: Mapping[str, Sequence[str]], ops: Collection[str] = ()) -> dict[str, int]:
  """Returns the executions of each computation per execution of the entry.

  A loop whose trip count is unknown counts once, and every branch of a conditional counts.

  Args:
    bodies: {name: lines} of every computation.
    ops: operations whose calls count, such as "while"; empty: all.
  """
  called: dict[str, list[tuple[str, int]]] = {}
  for name, lines in bodies.items():
    for line in lines:
      names = _CALLS.findall(line)
      match = _INSTRUCTION.match(line) if names and ops else None
      if not names or (ops and not (match and match["op"] in ops)):
        continue
      trips = _trips(line, lines, bodies)
      for callee in (callee for group in names for callee in re.findall(r"[\w.\-]+", group)):
        called.setdefault(callee, []).append((name, trips))
  counts = {"": 1}

  def count(name: str) -> int:
    if name not in counts:
      counts[name] = sum(times * count(caller) for caller, times in called.get(name, ()))
    return counts[name]

  for name in bodies:
    count(name)
  return counts


def _trips(line: str, lines: Sequence[str], bodies: Mapping[str, Sequence[str]]) -> int:
  """Returns the trips of a loop, which counts up by 1 to the bound in its condition; 1 for another instruction.

  Args:
    line: the loop.
    lines: of its computation.
    bodies: {name: lines} of every computation.
  """
  if trips := _TRIPS.search(line):
    return int(trips[1])
  condition = _CONDITION.search(line)
  if not condition:
    return 1
  text = "\n".join(bodies.get(condition[1], ()))
  bounds, counters = _BOUND.findall(text), _ELEMENT.findall(text)
  if len(bounds) != 1 or "direction=LT" not in text:
    return 1
  start = _initial_value(line, lines, int(counters[0])) if len(counters) == 1 else 0
  return max(0, int(bounds[0]) - start)


def _initial_value(line: str, lines: Sequence[str], index: int) -> int:
  """Returns the constant that an element of a loop's tuple is at first; 0 if it is unknown."""
  by_name = {x.name: x for x in instructions(lines)}
  (loop,) = instructions([line])
  value = by_name.get(loop.operands[0])
  if value is not None and value.op == "tuple":
    value = by_name.get(value.operands[index])
  while value is not None and value.op == "copy":
    value = by_name.get(value.operands[0])
  number = _INTEGER.match(value.rest) if value is not None and value.op == "constant" else None
  return int(number[0]) if number else 0


def arrays(text: str) -> list[Array]:
  """Returns the arrays of a type; nested tuples are flattened."""
  return [_array(*found) for found in _ARRAY.findall(text)]


def tuple_elements(text: str) -> list[str]:
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


def _array(kind: str, sides: str, layout: str) -> Array:
  shape = [int(side) for side in sides.split(",") if side]
  order, _, tiling = layout.partition(":")
  space, tile = _SPACE.search(tiling), _TILE.search(tiling)
  width = _width(kind)
  padded = list(shape)
  if tile and shape:
    minor_to_major = [int(axis) for axis in order.split(",") if axis]
    for axis, side in zip(minor_to_major, reversed(tile[1].split(",")), strict=False):
      padded[axis] = -(-shape[axis] // int(side)) * int(side)
  return Array(width * math.prod(shape), width * math.prod(padded), int(space[1]) if space else HBM)


def _width(kind: str) -> int:
  """Returns the bytes of an element; types below a byte take one."""
  bits = re.search(r"\d+", kind)
  return max(1, int(bits[0]) // 8) if bits else 1
