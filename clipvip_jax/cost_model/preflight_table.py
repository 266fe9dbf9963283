"""Preflight report as lines for a terminal."""

from collections.abc import Mapping
from typing import Any

from clipvip_jax.utils.progress import format_duration

_NAME = 38  # columns
_CONSUMERS = 8  # modules with a row


def _unit(value: float, base: int, ending: str) -> str:
  """Formats 1.5e9, 1000, "B" as `1.50 GB`."""
  prefix = 0
  while value >= base and prefix < 4:
    value, prefix = value / base, prefix + 1
  return f"{value:,.2f} {' KMGT'[prefix].strip()}{ending}"


def _memory_of(size: float) -> str:
  return _unit(size, 1024, "iB" if size >= 1024 else "B")


def _sent(size: float) -> str:
  return _unit(size, 1000, "B")


def _operations(count: float) -> str:
  return _unit(count, 1000, "FLOP")


def lines(report: Mapping[str, Any]) -> list[str]:
  """Formats the report of `step_report.step_report`, without costs if the step was not compiled."""
  mesh = " ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
  head = [
    f"{report['config']} on {report['topology']}: {report['chips']} chips, {mesh}; batch {report['batch']:,},"
    f" {report['clips_of_a_chip']:,} clips a chip",
    "",
  ]
  costs = (
    [*_flops(report), "", *_collectives(report), "", *_traffic(report), "", *_time(report)]
    if "memory" in report
    else []
  )
  return [*head, *_memory(report), "", *costs, *_largest(report)]


def _row(name: str, *cells: str) -> str:
  return f"  {name:<{_NAME}}" + "".join(f"  {cell:>14}" for cell in cells)


def _memory(report: Mapping[str, Any]) -> list[str]:
  estimated = " (estimated: CPU devices stand in for GPUs)" if report["memory_is_estimated"] else ""
  parts = [_row(name, _memory_of(size)) for name, size in report.get("memory", {}).items()]
  used = _memory_of(report["memory_used"]) if report["memory_used"] else "too much"
  available = f"of {_memory_of(report['hbm'])}"
  if report["usable"] < report["hbm"]:
    available += f", of which JAX takes {_memory_of(report['usable'])}"
  verdict = "fits" if report["fits"] else "does not fit"
  lines = [f"memory of a chip{estimated}", *parts, f"{_row('together', used)} {available}: {verdict}"]
  if measured := report.get("memory_measured"):
    ratio = f", {report['memory_used'] / measured:.2f} of it estimated" if report["memory_used"] else ""
    lines.append(_row("measured by the run", _memory_of(measured)) + ratio)
  return lines


def _flops(report: Mapping[str, Any]) -> list[str]:
  counted, compiled = report["flops_counted"], report["flops_compiled"]
  total, batch = sum(counted.values()), report["batch"]
  rows = [_row(name, _operations(value)) for name, value in counted.items() if value]
  rows.append(_row("together", _operations(total), _operations(total / batch) + " a clip"))
  if compiled is None:
    return ["operations of a step, counted", *rows, "  compiled: unknown, the compiler counts a loop's body once"]
  both = _row("compiled", _operations(compiled), _operations(compiled / batch) + " a clip")
  return ["operations of a step, counted", *rows, f"{both}, {compiled / total:.2f} of what is counted"]


def _collectives(report: Mapping[str, Any]) -> list[str]:
  rows = [
    _row(kind, f"{totals['count']:,}", _sent(totals["sent"])) for kind, totals in sorted(report["collectives"].items())
  ]
  sent, needed = report["sent"], report["sent_needed"]
  together = _row("together", "", _sent(sent))
  ratio = f", {sent / needed:.2f} of it" if needed else ""
  return [
    "collectives of a step: how many, and what a chip sends",
    *rows,
    f"{together}; the method needs {_sent(needed)}{ratio}",
  ]


def _traffic(report: Mapping[str, Any]) -> list[str]:
  consumers = sorted(report["hbm_by_module"].items(), key=lambda item: -item[1])
  total = report["hbm_bytes"]
  rows = [_row(name, _sent(size), f"{size / total:.0%}") for name, size in consumers[:_CONSUMERS]]
  rest = sum(size for _, size in consumers[_CONSUMERS:])
  estimated = ", estimated" if report["memory_is_estimated"] else ""
  return [
    f"bytes of a step from and to the memory of a chip, by module{estimated}",
    *rows,
    *([_row(f"{len(consumers) - _CONSUMERS} others", _sent(rest), f"{rest / total:.0%}")] if rest else []),
    _row("together", _sent(total)),
  ]


def _time(report: Mapping[str, Any]) -> list[str]:
  seconds = report["seconds"]
  bound = max(seconds, key=seconds.__getitem__)
  rows = [_row(name, f"{1e3 * value:,.3f} ms") for name, value in seconds.items()]
  rate = report["batch"] / seconds[bound]
  return [
    "time of a step by the chips' published peaks",
    *rows,
    _row("bound by " + bound, f"{1e3 * seconds[bound]:,.3f} ms")
    + f": {rate:,.0f} clips a second, {report['mfu']:.0%} of peak",
    f"compiled in {format_duration(report['seconds_to_compile'])}",
  ]


def _largest(report: Mapping[str, Any]) -> list[str]:
  if "largest_batch" not in report:
    return []
  batch = report["largest_batch"]
  if batch is None:
    return ["largest batch: unknown, the compiler reports no memory use that grows with the batch"]
  return [f"largest batch that fits, by a line through two compiled ones: {batch:,}"]
