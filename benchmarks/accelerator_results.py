"""Results of `benchmarks/accelerator.py`: rows, and the file that holds them."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from benchmarks import accelerator_table
from clipvip_jax.cost_model.step_cost import OutOfMemory
from clipvip_jax.utils.atomic_write import atomic_path
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable

MEASURED, OUT_OF_MEMORY, UNSUPPORTED, FAILED, SKIPPED = "measured", "out of memory", "unsupported", "failed", "skipped"
_SAME = ("device", "devices", "dtype", "jax", "code")  # of results that one file may hold
_FINAL = (MEASURED, OUT_OF_MEMORY, UNSUPPORTED)  # results that another call does not measure again

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """One measurement.

  Attributes:
    kind: a key of MEASUREMENTS, or of the peer.
    size: of `train_step.recipe`.
    batch: clips over all devices.
    option: the attention of a step, or how PyTorch runs.
  """

  kind: str
  size: str = ""
  batch: int = 0
  option: str = ""

  def __str__(self) -> str:
    batch = f"batch {self.batch}" if self.batch else ""
    return " ".join(part for part in (self.kind, self.size, batch, self.option) if part)


class Unsupported(Exception):
  """The device cannot do what a row measures."""


def failure(error: Exception) -> dict[str, Any]:
  """Returns the result of a row that raised an error."""
  text = first_line(error)
  if isinstance(error, OutOfMemory) and error.used:
    text += f", which needs {error.used / 2**30:.1f} GiB"
  if isinstance(error, OutOfMemory | MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in text:
    return {"status": OUT_OF_MEMORY, "reason": printable(text, 200)}
  if isinstance(error, Unsupported | UserError):
    return {"status": UNSUPPORTED, "reason": printable(text, 200)}
  name = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
  return {"status": FAILED, "reason": name + printable(text, 300)}


class Results:
  """Rows of the file of results, which is replaced at each new row.

  The file has "device", the elapsed "seconds" of all calls, and "rows": each with "name", the fields of `Row`,
  "status", and either numbers (seconds, clips per second, bytes, shares) or the "reason" why there are none.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the rows of an earlier call.

    Raises:
      UserError: the file is not of this benchmark.
    """
    self._path, self._started = path, time.monotonic()
    self._earlier: dict[str, Any] = {"device": {}, "seconds": 0.0, "rows": []}
    if path.exists():
      try:
        self._earlier = json.loads(path.read_text(encoding="utf-8"))
        _ = self._earlier["device"]["device"], self._earlier["seconds"]
        self._known = {row["name"]: row for row in self._earlier["rows"] if row["status"] in _FINAL}
      except (ValueError, KeyError, TypeError):
        raise UserError(f"--out={path} is not a file of benchmarks.accelerator; use another name") from None
    else:
      self._known = {}
    self.rows: list[Result] = []
    self.device: Result = {}

  def start(self, device: Result) -> None:
    """Sets the devices that are measured.

    Raises:
      UserError: the file has rows of other devices, versions or code.
    """
    earlier = self._earlier["device"]
    differing = [name for name in _SAME if self._known and earlier.get(name) != device[name]]
    if differing:
      name = differing[0]
      raise UserError(
        f"--out={self._path} has rows of {name} {earlier.get(name)}, not {device[name]}; use another name, or delete it"
      )
    self.device = device

  def known(self, row: Row) -> Result | None:
    """Returns the final result of an earlier call."""
    return self._known.pop(str(row), None)

  def add(self, row: Row, result: Mapping[str, Any]) -> Result:
    """Adds a row and writes the files."""
    self.rows.append({"name": str(row), **dataclasses.asdict(row), **result})
    report = {
      "device": self.device,
      "seconds": self._earlier["seconds"] + time.monotonic() - self._started,
      "rows": [*self.rows, *self._known.values()],  # none of an earlier call is lost, should this one be killed
    }
    texts = {"": json.dumps(report, indent=1), ".md": accelerator_table.markdown(report)}
    for suffix, text in texts.items():
      with atomic_path(self._path.with_suffix(suffix) if suffix else self._path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return self.rows[-1]

  def find(self, kind: str, row: Row) -> Result | None:
    """Returns the first measured row of another kind, of the same size and batch."""
    same = {"kind": kind, "size": row.size, "batch": row.batch, "status": MEASURED}
    return next((x for x in self.rows if same.items() <= x.items()), None)
