"""What chips say to each other in a compiled program, read from its HLO text, and what the method needs of it.

Bytes are those that one chip sends when the chips of a group form a ring: (n - 1) / n of what is gathered or scattered,
and twice that for a sum that everybody gets. How the compiler splits a sum into a scatter and a gather then does not
change the count.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from clipvip_jax.distributed import sharding
from clipvip_jax.training import optimizer
from clipvip_jax.training.losses import LOSSES

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all-reduce", "all-gather", "reduce-scatter"
ALL_TO_ALL, PERMUTE = "all-to-all", "collective-permute"
KINDS = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One instruction.

  Attributes:
    kind: one of KINDS.
    whole: bytes of what is gathered, scattered, summed or passed on: the larger of operand and result.
    group: chips that take part together.
    times: how often a step runs it.
    source: where in the program it comes from, as XLA tells it.
    span: consecutive chips from the first to the last of a group, where the program lists them.
  """

  kind: str
  whole: int
  group: int
  times: int = 1
  source: str = ""
  span: int = 0

  @property
  def sent(self) -> float:
    """Bytes that each chip sends in a step."""
    if self.kind == PERMUTE:
      return float(self.times * self.whole)
    share = (self.group - 1) / self.group
    return self.times * self.whole * share * (2 if self.kind == ALL_REDUCE else 1)


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
  """The collectives of a compiled program.

  A loop multiplies by its number of turns where the compiler knows it; else it counts once.

  Args:
    hlo: `compiled.as_text()`.
    devices: that the program runs on.
  """
  bodies = dict(_computations(hlo))
  times = _times(bodies)
  found, chains = [], set()
  for name, lines in bodies.items():
    # TPUs scatter within a fusion of this name: a sum of which each chip keeps its part.
    scatters = "all-reduce-scatter" in name
    for match in filter(None, map(_INSTRUCTION.match, lines)):
      # TPUs run a collective while they compute; every kernel beside it repeats the instruction, in one chain.
      chain = _CHAIN.search(match["rest"])
      if times[name] and not (chain and chain[0] in chains):
        found.append(_collective(match, devices, times[name], scatters))
        chains |= {chain[0]} if chain else set()
  return found


def _computations(hlo: str) -> Iterable[tuple[str, list[str]]]:
  """(name, lines) of every computation; that of the entry is ""."""
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
  """How often each computation runs in one run of the entry."""
  called: dict[str, list[tuple[str, int]]] = {}
  for name, lines in bodies.items():
    for line in lines:
      trips = _TRIPS.search(line)
      for names in _CALLS.findall(line):
        for callee in re.findall(r"[\w.\-]+", names):
          called.setdefault(callee, []).append((name, int(trips[1]) if trips else 1))
  found = {"": 1}

  def count(name: str) -> int:
    if name not in found:
      found[name] = sum(times * count(caller) for caller, times in called.get(name, ()))
    return found[name]

  for name in bodies:
    count(name)
  return found


def _collective(match: re.Match[str], devices: int, times: int, scatters: bool) -> Collective:
  kind, rest = match["kind"], match["rest"]
  group = _group(rest, devices)
  parts = _top_level(match["type"])
  if match["start"] and kind in (ALL_GATHER, PERMUTE):  # (operands, results, ...)
    parts = parts[1:2]
  whole = sum(_bytes(part) for part in parts)
  if kind == REDUCE_SCATTER:
    whole *= group
  source = _OP_NAME.search(rest)
  kind = REDUCE_SCATTER if scatters and kind == ALL_REDUCE else kind
  return Collective(kind, whole, group, times, source[1] if source else "", _span(rest, group))


def _group(rest: str, devices: int) -> int:
  """Chips of a group: `{{0,1},{2,3}}`, `[2,2]<=[4]` or `mesh['a'=2,'b'=2] {'b'}`; all, where none are named."""
  if found := _IOTA.search(rest):
    return int(found[1])
  if found := _NAMED.search(rest):
    sizes = dict(_AXIS.findall(found[1]))
    return math.prod(int(size or sizes[axis]) for axis, size in _AXIS.findall(found[2]))
  found = _LISTED.search(rest)
  return len(found[1].split(",")) if found and found[1] else devices


def _span(rest: str, group: int) -> int:
  """Chips from the first to the last of the widest group: of `[4,2]<=[2,4]T(1,0)`, {0,4}, {1,5} and so on, five."""
  if (found := _IOTA.search(rest)) and found["shape"]:
    shape, order = ([int(n) for n in (found[name] or "").split(",") if n] for name in ("shape", "order"))
    chips = np.arange(math.prod(shape)).reshape(shape).transpose(order or None).reshape(-1, group)
    return int(np.ptp(chips, axis=1).max()) + 1
  if found := _LISTS.search(rest):
    groups = [[int(n) for n in ids.split(",")] for ids in re.findall(r"\{([\d,]+)\}", found[1])]
    return max(max(ids) - min(ids) for ids in groups) + 1
  return group


def _top_level(text: str) -> list[str]:
  """The elements of a tuple type, or the type itself."""
  text = re.sub(r"/\*.*?\*/", "", text)
  if not text.startswith("("):
    return [text]
  parts, depth = [""], 0
  for character in text[1:-1]:
    depth += (character in "([{") - (character in ")]}")
    if character == "," and not depth:
      parts.append("")
    else:
      parts[-1] += character
  return parts


def _bytes(text: str) -> int:
  return sum(_width(kind) * math.prod(int(n) for n in sides.split(",") if n) for kind, sides in _ARRAY.findall(text))


def _width(kind: str) -> int:
  """Bytes of an element; what is smaller than a byte takes one."""
  bits = re.search(r"\d+", kind)
  return max(1, int(bits[0]) // 8) if bits else 1


def total_bytes(found: Iterable[Collective]) -> float:
  """Bytes that each chip sends in a step."""
  return sum(one.sent for one in found)


def required_collectives(config: Any, mesh: Mesh, params: Any) -> list[Collective]:
  """What the method needs: every gradient summed once, features gathered and their gradients scattered once.

  On an fsdp axis, parameters are gathered for a pass forward and stay so for the one back, and gradients are scattered
  before they are summed over data. On a tensor axis, every half of a block sums its output once, and the gradient by
  its input once.

  Args:
    params: the parameters or their shapes.
  """
  data, fsdp = mesh.shape[sharding.DATA], mesh.shape[sharding.FSDP]
  found = [*_of_features(config, data * fsdp), *_of_parameters(config, mesh, params)]
  if mesh.shape[sharding.TENSOR] > 1:
    found += _of_blocks(config, mesh)
  return [one for one in found if one.group > 1 and one.whole]


def _of_features(config: Any, group: int) -> list[Collective]:
  uses, batch = LOSSES[config.loss].uses, config.train.batch_size
  features = 4 * batch * config.model.embed_dim
  masks = len(uses & {"subtitle", "caption"}) * batch
  return [
    Collective(ALL_GATHER, len(uses) * features + masks, group, source="features and masks"),
    Collective(REDUCE_SCATTER, len(uses) * features, group, source="gradients by features"),
  ]


def _of_parameters(config: Any, mesh: Mesh, params: Any) -> list[Collective]:
  """Of each parameter a chip holds, after its tensor axis has split it, 1 / fsdp or all."""
  data, fsdp = mesh.shape[sharding.DATA], mesh.shape[sharding.FSDP]
  passes = 1 + (config.train.num_microbatches > 1)
  summed, scattered, gathered = {1: 0, fsdp: 0}, 0, 0
  for name, x in traverse_util.flatten_dict(params, sep="/").items():
    spec = sharding.partition_spec(name, x.shape, mesh)
    held = 4 * math.prod(x.shape) // (mesh.shape[sharding.TENSOR] if sharding.TENSOR in spec else 1)
    trained = not optimizer.is_frozen(name, config.optimizer.frozen)
    if sharding.FSDP in spec and fsdp > 1:
      gathered += passes * held
      scattered += trained * held
      summed[fsdp] += trained * held // fsdp
    else:
      summed[1] += trained * held
  return [
    Collective(ALL_GATHER, gathered, fsdp, source="parameters"),
    Collective(REDUCE_SCATTER, scattered, fsdp, source="gradients"),
    Collective(ALL_REDUCE, summed[1], data * fsdp, source="gradients"),
    *([Collective(ALL_REDUCE, summed[fsdp], data, source="scattered gradients")] if fsdp > 1 else []),
  ]


def _of_blocks(config: Any, mesh: Mesh) -> list[Collective]:
  model, uses = config.model, LOSSES[config.loss].uses
  clips = config.train.batch_size // (mesh.shape[sharding.DATA] * mesh.shape[sharding.FSDP])
  patches, proxies = (model.image_size // model.patch_size) ** 2, 1 + model.vision.added_proxies
  frames = {"video": config.data.num_frames, "frame": 1}
  tokens = {name: proxies + count * patches for name, count in frames.items()}
  tokens |= dict.fromkeys(("subtitle", "caption"), config.data.text_length)
  towers = {"video": model.vision, "frame": model.vision, "subtitle": model.text, "caption": model.text}
  width = 2 if model.dtype == "bfloat16" else 4
  whole = 0
  for name in uses:
    # The last block sums one token three times, and the gradient by its keys and values.
    rows = 4 * (towers[name].layers - 1) * tokens[name] + tokens[name] + 3
    whole += rows * towers[name].width * clips * width
  return [Collective(ALL_REDUCE, whole, mesh.shape[sharding.TENSOR], source="outputs of half blocks")]
