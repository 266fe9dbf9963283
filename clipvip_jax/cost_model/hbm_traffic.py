"""Bytes that a compiled program reads from and writes to a chip's memory (HBM), by module of the model.

XLA's own count, "bytes accessed", includes traffic inside on-chip memory, and the complete operand of every slice. Here
an operand or result counts only if it is in HBM, with the padding of its tiles; a slice and an update in place count by
their own size; the body of a loop counts once per trip.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from clipvip_jax.cost_model import hlo_text
from clipvip_jax.cost_model.hlo_text import HBM, Array, Instruction

# Operations whose computations run by themselves; those of other operations, such as fusions, are a part of them.
_CALLERS = ("while", "conditional", "call", "async-start")
# Operations that move no data, or whose data other instructions move.
_FREE = frozenset(
  (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency"),
    *("partition-id", "replica-id", "opt-barrier"),
    *_CALLERS,
  )
)
_FREE_TARGETS = ("ConcatBitcast", "AllocateBuffer")
_TARGET = re.compile(r'custom_call_target="(\w+)"')
_SLICES = ("slice", "dynamic-slice", "gather")
_UPDATE = "dynamic-update-slice"
_WRAPPED = re.compile(r"\w+\([^/]*\)+(?=/|$)")  # jit(step), transpose(jvp(ClipVip.embed_video))
_MODULE = re.compile(r"[a-z][a-z0-9_]*")
_NUMBER = re.compile(r"_\d+$")
_RECOMPUTED = ("checkpoint", "rematted_computation")  # of jax.checkpoint, which may repeat the module's name
# Kernels of proxy_kernel.py: on several devices, their names lack the module.
_FUSED, _FUSED_MODULE = re.compile(r"\bproxy_attention_(forward|backward)\b"), "vision/transformer/block/attention"
_FAR = 50  # instructions searched for a name
OTHER = "optimizer, loss, other"


def by_module(hlo: str) -> dict[str, int]:
  """Returns {module: bytes per execution}, the largest first.

  Blocks of a tower count together, as "vision/transformer/block/mlp/up"; what belongs to no module is OTHER.

  Args:
    hlo: `compiled.as_text()`.
  """
  bodies = dict(hlo_text.computations(hlo))
  times = hlo_text.executions(bodies, _CALLERS)
  program = _Program(bodies)
  totals: Counter[str] = Counter()
  for name in bodies:
    if times[name]:
      for instruction in program.body(name):
        if moved := program.moved(instruction):
          totals[program.module(instruction)] += times[name] * moved
  return dict(totals.most_common())


def op_names(hlo: str) -> dict[str, str]:
  """Returns {instruction: name of its operation} of all instructions; a copy without a name has that of its user.

  Args:
    hlo: `compiled.as_text()`.
  """
  bodies = dict(hlo_text.computations(hlo))
  program = _Program(bodies)
  return {instruction.name: program.op_name(instruction) for name in bodies for instruction in program.body(name)}


class _Program:
  """Computations of a program, parsed where they are used."""

  def __init__(self, bodies: Mapping[str, Sequence[str]]):
    self._bodies = bodies
    self._by_name: dict[str, Instruction] = {}
    self._users: dict[str, list[str]] = {}

  @functools.cache  # noqa: B019 - lives as long as one count
  def body(self, name: str) -> list[Instruction]:
    """Returns the instructions of a computation."""
    parsed = hlo_text.instructions(self._bodies.get(name, ()))
    for instruction in parsed:
      self._by_name[instruction.name] = instruction
      for operand in instruction.operands:
        self._users.setdefault(operand, []).append(instruction.name)
    return parsed

  def module(self, instruction: Instruction) -> str:
    """Returns the module of an instruction; a copy without a name is of the first module that uses it."""
    return module_of(self.op_name(instruction)) or OTHER

  def op_name(self, instruction: Instruction) -> str:
    """Returns the name of an instruction's operation, or of the first operation that uses it; "" if unknown."""
    seen = {instruction.name}
    queue = [instruction]
    for x in queue:
      if x.op == "parameter":  # whose name is that of an argument
        continue
      if name := x.op_name or self._fused_op_name(x):
        return name
      names = [name for name in (*self._users.get(x.name, ()), *x.operands[:1]) if name not in seen]
      seen.update(names)
      queue += [self._by_name[name] for name in names if name in self._by_name and len(queue) < _FAR]
    return ""

  def _fused_op_name(self, instruction: Instruction) -> str:
    """Returns the name of the last operation in a fusion that has one; "" for other instructions."""
    body = self.body(instruction.called[0]) if instruction.op == "fusion" else ()
    return next((x.op_name for x in reversed(body) if x.op_name and x.op != "parameter"), "")

  def moved(self, instruction: Instruction) -> int:
    """Returns the bytes that an instruction moves from and to HBM."""
    op = instruction.op.removesuffix("-start")  # an asynchronous operation moves what the operation does
    target = _TARGET.search(instruction.rest)
    if op in _FREE or op.endswith(("-done", "-update")) or (target and target[1] in _FREE_TARGETS):
      return 0
    operands = [self._by_name[name] for name in instruction.operands if name in self._by_name]
    results = instruction.results
    if op == "fusion":
      body = self.body(instruction.called[0])
      read = sum(self._read(body, index, operand.arrays) for index, operand in enumerate(operands))
      return read + _written(body, results)
    if op in _SLICES:
      return _in_hbm(operands[0].arrays) * sum(x.padded for x in results) + _hbm_bytes(results)
    if op == _UPDATE:
      update = operands[1].arrays[0]
      return update.padded * ((update.space == HBM) + _in_hbm(results))
    return _hbm_bytes(x for operand in operands for x in operand.arrays) + _hbm_bytes(results)

  def _read(self, body: Sequence[Instruction], index: int, operand: Sequence[Array]) -> int:
    """Returns the bytes that a fusion reads of an operand."""
    full = _hbm_bytes(operand)
    name = next((x.name for x in body if x.op == "parameter" and x.rest.startswith(f"{index})")), "")
    return min(full, self._accessed(body, name, full)) if full and name else full

  def _accessed(self, body: Sequence[Instruction], name: str, full: int) -> int:
    """Returns the bytes of a value that the instructions of a fused computation read; `full` unless they slice it."""
    total = 0
    for user in body:
      if name not in user.operands:
        continue
      if user.op in _SLICES and name not in user.operands[1:]:
        total += sum(x.padded for x in user.arrays)
      elif user.op == "bitcast" and not user.is_root:
        total += self._accessed(body, user.name, full)
      elif user.op == "fusion":
        inner = self.body(user.called[0])
        total += sum(self._read(inner, i, [Array(full, full, HBM)]) for i, x in enumerate(user.operands) if x == name)
      elif user.op != _UPDATE or name in user.operands[1:]:
        return full
    return total


def _written(body: Sequence[Instruction], results: Sequence[Array]) -> int:
  """Returns the bytes that a fusion writes: an update in place writes only what it updates."""
  by_name = {x.name: x for x in body}
  root = next(x for x in body if x.is_root)
  values = [by_name[name] for name in root.operands] if root.op == "tuple" else [root]
  if len(values) != len(results):
    return _hbm_bytes(results)
  total = 0
  for value, result in zip(values, results, strict=True):
    while value.op == "bitcast" and value.operands[0] in by_name:
      value = by_name[value.operands[0]]
    if value.op == _UPDATE:
      result = Array(result.size, by_name[value.operands[1]].arrays[0].padded, result.space)
    total += _hbm_bytes([result])
  return total


def _hbm_bytes(arrays: Iterable[Array]) -> int:
  return sum(x.padded for x in arrays if x.space == HBM)


def _in_hbm(arrays: Sequence[Array]) -> bool:
  return any(x.space == HBM for x in arrays)


@functools.cache
def module_of(op_name: str) -> str:
  """Returns the module of an operation's name, without methods and numbers of blocks; "" if it has none.

  `jit(step)/transpose(jvp(ClipVip.embed_video))/vision/transformer/jit(core_fn)/block_3/mlp/up/dot_general` is of
  vision/transformer/block/mlp/up.
  """
  if _FUSED.search(op_name):
    return _FUSED_MODULE
  parts = _WRAPPED.sub("", op_name.partition(";")[0]).split("/")[:-1]
  starts = [index for index, part in enumerate(parts) if part in ("vision", "text", "sequence")]
  modules = [part for part in parts[starts[0] :] if _MODULE.fullmatch(part)] if starts else []
  return "/".join(dict.fromkeys(_NUMBER.sub("", part) for part in modules if part not in _RECOMPUTED))


def is_backward(op_name: str) -> bool:
  """Returns whether an operation of a module belongs to the backward pass."""
  fused = _FUSED.search(op_name)
  return fused[1] == "backward" if fused else "transpose(" in op_name
