"""A short run for trackers: it is stopped after step 6, and resumes from step 4, so that steps 5 and 6 are repeated."""

import json

from clipvip_jax.tracking import background
from clipvip_jax.tracking.open_trackers import open_trackers
from clipvip_jax.utils.errors import Terminated

CONFIG = {"seed": 3, "host": {"tracker": "mine"}, "evaluate": {"final_splits": ["test"]}, "init_from": ""}
RESULTS = {"final/test/plain/text_to_video/R@1": 0.75}


def loss(step):
  return 1.0 / step


def track(names, workdir, first_step, last_step, *, stop=False, number=loss):
  """Tracks steps as the training loop does: a row per step, then the evaluations of steps 3, 6 and 9."""
  workdir.mkdir(exist_ok=True)
  history = workdir / "metrics.jsonl"
  kept = [row for row in read_rows(workdir) if row["step"] <= first_step]
  history.write_text("".join(json.dumps(row) + "\n" for row in kept))
  with history.open("a") as file, open_trackers(names, workdir, CONFIG, first_step) as tracker:
    for step in range(first_step + 1, last_step + 1):
      rows = {"train/loss": number(step)}
      tracker.log_metrics(step, dict(rows))
      if step % 3 == 0:
        rows["validation/text_to_video/R@1"] = step / 10
        tracker.log_metrics(step, {"validation/text_to_video/R@1": step / 10})
      file.write(json.dumps({"step": step, **rows}) + "\n")
    if stop:
      raise Terminated(15, "saved")
    (workdir / "report.html").write_text("<title>report</title>")
    tracker.log_results(last_step, RESULTS, workdir / "report.html")


def track_twice(names, workdir, monkeypatch):
  """The run, stopped and resumed."""
  for status in background.CLOSE_SECONDS:
    monkeypatch.setitem(background.CLOSE_SECONDS, status, 120.0)  # packages that are large, on a busy machine
  try:
    track(names, workdir, 0, 6, stop=True)
  except Terminated:
    track(names, workdir, 4, 9)


def read_rows(workdir):
  """Rows of metrics.jsonl."""
  path = workdir / "metrics.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def history(workdir):
  """{metric: [(step, value)]} of metrics.jsonl."""
  values = {}
  for row in read_rows(workdir):
    for name in row.keys() - {"step"}:
      values.setdefault(name, []).append((row["step"], row[name]))
  return values
