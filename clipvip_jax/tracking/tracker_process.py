"""Main function of the process of a tracker.

It reads one JSON list per line from standard input: ["start", run], then ["metrics", step, metrics] and
["results", step, results, path of the report], at the end ["finish", status]. For each failure, it writes a JSON string
to standard output, and null when the tracker has finished. WORKDIR/trackers/NAME.json has the id of the run at the
tracker and the last step of each metric.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from clipvip_jax.tracking.names import load_class
from clipvip_jax.tracking.tracker import Status, TrackedRun, Tracker
from clipvip_jax.utils import config_tree, signals
from clipvip_jax.utils.errors import first_line

_NICENESS = 10  # the run has precedence
FINISHED = None  # the last answer; without it, the process has ended early
END_SECONDS = 120  # after the end of the run, after which nothing else ends a tracker that hangs
_SECRET_NAMES = re.compile(r"KEY|TOKEN|PASSW|SECRET")
_MIN_SECRET = 6  # characters; shorter values occur in any text


@dataclasses.dataclass
class _Record:
  """State of a run at a tracker.

  Attributes:
    id: of the run at the tracker.
    steps: metric to its last step.
    report: digest of the report.
  """

  id: str = ""
  steps: dict[str, int] = dataclasses.field(default_factory=dict)
  report: str = ""


def serve() -> None:
  """Tracks a run; the name of the tracker is the first argument."""
  for number in signals.SIGNALS:
    signal.signal(number, signal.SIG_IGN)  # the run decides when it ends
  os.nice(_NICENESS)
  requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
  threading.Thread(target=_limit_time_after_run, args=(requests.fileno(),), daemon=True).start()
  null = os.open(os.devnull, os.O_RDWR)
  for descriptor in (0, 1):
    os.dup2(null, descriptor)  # the tracker's package must neither read requests nor mix its output with answers

  def report_failure(error: Exception) -> None:
    print(json.dumps(_without_secrets(f"{type(error).__name__}: {first_line(error)}")), file=answers, flush=True)

  try:
    track(sys.argv[1], map(json.loads, requests), report_failure)
    print(json.dumps(FINISHED), file=answers, flush=True)
  except Exception as error:
    report_failure(error)


def track(name: str, requests: Iterable[list[Any]], report_failure: Callable[[Exception], None]) -> None:
  """Passes requests to a tracker. One that fails is reported and dropped.

  Args:
    name: of the tracker.
    requests: as in the docstring of the module.
    report_failure: called with each exception of the tracker.

  Raises:
    Exception: any, if the tracker does not start or finish, or a request is cut off.
  """
  requests = iter(requests)
  _, fields = next(requests)
  workdir = pathlib.Path(fields["workdir"])
  path = workdir / "trackers" / f"{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}.json"
  record = _read_record(path)
  tracker = load_class(name)()
  path.parent.mkdir(exist_ok=True)
  record.id = tracker.start(TrackedRun(**{**fields, "workdir": workdir, "id": record.id}))
  status: Status = "failed"
  try:
    config_tree.write_json(path, dataclasses.asdict(record))
    for kind, *arguments in requests:
      if kind == "finish":
        (status,) = arguments
        continue
      try:
        _pass_on(tracker, record, kind, *arguments)
        config_tree.write_json(path, dataclasses.asdict(record))
      except Exception as error:
        report_failure(error)
  finally:
    tracker.finish(status)


def _limit_time_after_run(pipe: int) -> None:
  """Waits until the run has closed its end of the pipe, also by being killed; this process then ends in END_SECONDS."""
  poll = select.poll()
  poll.register(pipe, 0)  # reports a closed end only, also before the last requests are read
  poll.poll()
  signal.alarm(END_SECONDS)


def _read_record(path: pathlib.Path) -> _Record:
  if not path.exists():
    return _Record()
  try:
    return _Record(**json.loads(path.read_text(encoding="utf-8")))
  except (OSError, ValueError, TypeError) as error:
    raise ValueError(f"{path} cannot be read ({error}); delete it to track the rest as a new run") from error


def _pass_on(tracker: Tracker, record: _Record, kind: str, step: int, metrics: dict[str, float], *rest: str) -> None:
  """Passes metrics or results to the tracker, except what it has recorded before."""
  if kind == "metrics":
    new = {name: value for name, value in metrics.items() if step > record.steps.get(name, -1)}
    if new:
      tracker.log_metrics(step, new)
      record.steps.update(dict.fromkeys(new, step))
    return
  report = pathlib.Path(*rest)
  digest = hashlib.sha256(report.read_bytes()).hexdigest()
  if digest != record.report:
    tracker.log_results(step, metrics, report)
    record.report = digest


def _without_secrets(text: str) -> str:
  """Replaces the values of environment variables such as WANDB_API_KEY, and passwords in URLs."""
  for name, value in os.environ.items():
    if _SECRET_NAMES.search(name) and len(value) >= _MIN_SECRET:
      text = text.replace(value, "***")
  return re.sub(r"://[^/\s@]+@", "://***@", text)
