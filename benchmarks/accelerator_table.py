"""Markdown of the results of `benchmarks/accelerator.py`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from clipvip_jax.utils.progress import format_duration

_KERNELS = 12  # rows of a profile
_HEAD = ("measurement", "time", "clips a second", "TFLOP/s", "share of peak", "remarks")


def markdown(report: Mapping[str, Any]) -> str:
  """Returns a table of all rows, and one of the kernels of each profile.

  Args:
    report: the content of the file; see `accelerator.Results`.
  """
  device = report["device"]
  title = f"{device['devices']} x {device['device']}, JAX {device['jax']}, {device['dtype']}"
  peak = f"peak {device['peak_flops'] / 1e12:,.1f} TFLOP/s" if device["peak_flops"] else device["no_peak"]
  lines = [f"{title}; {peak}; {format_duration(report['seconds'])}", "", *_table(_HEAD, map(_cells, report["rows"]))]
  for row in report["rows"]:
    if "kernels" in row:
      lines += ["", *_profile(row)]
  return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
  yield f"| {' | '.join(head)} |"
  yield "|---" * len(head) + "|"
  for cells in rows:
    yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  def cell(field: str, form: str) -> str:
    return form.format(row[field]) if row.get(field) else ""

  return (
    row["name"],
    seconds_text(row["seconds"]) if row.get("seconds") else "",
    cell("clips_per_second", "{:,.1f}"),
    cell("tflops", "{:,.3g}"),
    cell("share_of_peak", "{:.1%}"),
    remarks(row),
  )


def summary(row: Mapping[str, Any]) -> str:
  """Returns a result in one line."""
  cells = ("", *_cells({"name": "", **row})[1:])
  units = ("", "", " clips/s", " TFLOP/s", " of peak", "")
  return ", ".join(cell + unit for cell, unit in zip(cells, units, strict=True) if cell)


def seconds_text(seconds: float) -> str:
  """Formats a duration with three digits: 12.3 ms, 4.56 s."""
  return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


# Formats of fields that only some rows have.
_REMARKS: dict[str, Callable[[Any], str]] = {
  "memory": lambda x: f"{x / 2**30:.2f} GiB a device",
  "forward_seconds": lambda x: f"forward {seconds_text(x)}",
  "texts_per_second": lambda x: f"{x:,.0f} texts a second",
  "gigabytes_per_second": lambda x: f"{x:.2f} GB/s",
  "cores": lambda x: f"{x} cores",
  "kernel_seconds": lambda x: f"kernels {seconds_text(x)} a step",
  "speedup": lambda x: f"ours is {x:.2f} x as fast",
}


def remarks(row: Mapping[str, Any]) -> str:
  """Returns the remarks on a row."""
  parts = []
  if row.get("reason"):
    parts.append(f"{row['status']}: {row['reason']}")
  if "compile_seconds" in row:
    source = "from the cache" if row["from_cache"] else "without cache"
    traced = f"traced in {seconds_text(row['trace_seconds'])}"
    parts.append(f"{traced}, compiled in {seconds_text(row['compile_seconds'])} ({source})")
  if "predicted_seconds" in row:
    ratio = row["seconds"] / row["predicted_seconds"]
    parts.append(f"{ratio:.2f} x preflight's {seconds_text(row['predicted_seconds'])} ({row['bound_by']})")
  parts += [describe(row[name]) for name, describe in _REMARKS.items() if name in row]
  return "; ".join(parts)


def _profile(row: Mapping[str, Any]) -> Iterator[str]:
  yield f"Kernels of {row['name'].removeprefix('profile ')}:"
  yield ""
  total = row["kernel_seconds"]
  for title, items in (
    ("module", [(name, "", seconds) for name, seconds in row["modules"].items()]),
    ("kernel", [(_kernel(x), f"{x['count']:g}", x["seconds"]) for x in row["kernels"]]),
  ):
    rows = ((name, count, seconds_text(value), f"{value / total:.1%}") for name, count, value in items[:_KERNELS])
    yield from _table((title, "executions", "time a step", "share"), rows)
    yield ""


def _kernel(kernel: Mapping[str, Any]) -> str:
  return " ".join(part for part in (f"{kernel['module']}:", kernel["name"], kernel["direction"]) if part)
