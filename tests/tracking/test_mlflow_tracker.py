"""MLflow in a local folder: its client reads the run's config, each metric once, and the report."""

import json

import pytest
from tracked_run import CONFIG, RESULTS, history, track_twice

from clipvip_jax.utils import config_tree

mlflow = pytest.importorskip("mlflow", reason="mlflow is an optional package")


def test_a_stopped_and_resumed_run_is_one_run(tmp_path, monkeypatch):
  for name, value in {
    "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
  }.items():
    monkeypatch.setenv(name, value)
  workdir = tmp_path / "my run"
  track_twice(["mlflow"], workdir, monkeypatch)
  client = mlflow.MlflowClient()
  experiment = client.get_experiment_by_name("clipvip_jax")
  (run,) = client.search_runs([experiment.experiment_id])
  assert run.info.run_id == json.loads((workdir / "trackers" / "mlflow.json").read_text())["id"]
  assert run.info.run_name == "my run" and run.info.status == "FINISHED"
  assert run.data.params == {name: str(value) for name, value in config_tree.flatten(CONFIG)}
  expected = history(workdir) | {name: [(9, value)] for name, value in RESULTS.items()}
  for name, points in expected.items():
    logged = client.get_metric_history(run.info.run_id, name.replace("@", "_at_"))
    assert [(point.step, point.value) for point in logged] == points
  assert run.data.metrics.keys() == {name.replace("@", "_at_") for name in expected}
  artifacts = tmp_path / "artifacts"
  artifacts.mkdir()
  client.download_artifacts(run.info.run_id, "", str(artifacts))
  assert json.loads((artifacts / "config.json").read_text()) == CONFIG
  assert (artifacts / "report.html").read_text() == (workdir / "report.html").read_text()
