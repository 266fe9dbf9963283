"""A collective operation and the bytes that each chip sends for it.

Bytes are those of a ring of n chips: (n - 1) / n of what is gathered or scattered, and twice that for an all-reduce.
The count is thus the same whether the compiler splits an all-reduce into a reduce-scatter and an all-gather or not.
"""

import dataclasses
from collections.abc import Iterable

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all-reduce", "all-gather", "reduce-scatter"
ALL_TO_ALL, PERMUTE = "all-to-all", "collective-permute"
KINDS = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE)


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of a training step.

  Attributes:
    kind: one of KINDS.
    size: bytes of the larger of operand and result.
    group: number of participating chips.
    times: executions per step.
    origin: operation in the program, or its purpose.
    span: number of consecutive chips from the first to the last of a group; 0: unknown.
  """

  kind: str
  size: int
  group: int
  times: int = 1
  origin: str = ""
  span: int = 0

  @property
  def sent(self) -> float:
    """Bytes that each chip sends per step."""
    if self.kind == PERMUTE:
      return float(self.times * self.size)
    share = (self.group - 1) / self.group
    return self.times * self.size * share * (2 if self.kind == ALL_REDUCE else 1)


def total_bytes(collectives: Iterable[Collective]) -> float:
  """Returns the bytes that each chip sends per step."""
  return sum(collective.sent for collective in collectives)
