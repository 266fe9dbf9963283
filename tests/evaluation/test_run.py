"""An evaluation from targets to files: results, confidence intervals, deviation over runs, and foreign folders."""

import dataclasses
import json
import statistics

import numpy as np
import pytest
from embeddings import random_embeddings, target

from clipvip_jax.evaluation import confidence, published_results, retrieval, run
from clipvip_jax.evaluation.evaluator import measure_retrieval
from clipvip_jax.utils.errors import UserError


def evaluate(targets, folder):
  """Returns (results, the results that were reported)."""
  reported = []
  results = run.evaluate(targets, folder, reported.append)
  assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
  return results, reported


def test_one_target_gives_its_metrics_with_intervals(tmp_path):
  embeddings = random_embeddings(count=40)
  results, (reported,) = evaluate([target(embeddings=embeddings)], tmp_path / "out")
  assert reported.results is results and reported.folder == tmp_path / "out"
  metrics = results["splits"]["test"]
  expected = measure_retrieval(embeddings).metrics
  labels = np.arange(40)
  ranks = {
    "text_to_video": retrieval.text_to_video_ranks(embeddings.similarity()),
    "video_to_text": retrieval.video_to_text_ranks(embeddings.similarity()),
  }
  for direction, direction_ranks in ranks.items():
    interval = metrics["plain"][direction].pop("R@1_interval")
    assert interval == confidence.bootstrap_interval(direction_ranks == 1, labels)
    assert interval[0] <= expected["plain"][direction]["R@1"] <= interval[1]
  assert metrics == expected
  assert results["model"]["source"] == "run0" and "not" in results["dual_softmax"] and results["versions"]


def test_grouped_captions_have_an_interval_and_a_deviation(tmp_path):
  labels = [0, 0, 0, *range(3, 12)]
  several = [random_embeddings(seed, labels=[max(label - 2, 0) for label in labels]) for seed in (0, 1)]
  several = [dataclasses.replace(one, videos=one.videos[2:], ids=one.ids[2:], twins=one.twins[2:]) for one in several]
  results, reported = evaluate([target(seed, embeddings=one) for seed, one in enumerate(several)], tmp_path)
  measured = reported[0].results["splits"]["test"]["plain"]["video_to_text_grouped"]
  ranks = retrieval.video_to_text_grouped_ranks(several[0].similarity(), several[0].labels)
  assert measured["R@1_interval"] == confidence.bootstrap_interval(ranks == 1, np.arange(10))
  assert measured["mean_rank"] == ranks.mean()
  assert "mean" in results["spread"]["test"]["dsl"]["video_to_text_grouped"]["R@1"]


def test_published_rows_are_those_of_corpus_and_split(tmp_path):
  results, _ = evaluate([target()], tmp_path / "known")
  assert results["published"] == {"test": published_results.published_rows("msrvtt/9k/1.0.0", "test")}
  assert results["published"]["test"]
  results, _ = evaluate([target(corpus={"name": "moving_shapes/demo/1.0.0"})], tmp_path / "unknown")
  assert results["published"] == {}


def test_several_targets_give_mean_and_standard_deviation(tmp_path):
  results, reported = evaluate([target(seed) for seed in range(3)], tmp_path / "out")
  ranks = [one.results["splits"]["test"]["plain"]["text_to_video"]["mean_rank"] for one in reported]
  assert results["spread"]["test"]["plain"]["text_to_video"]["mean_rank"] == {
    "mean": pytest.approx(statistics.mean(ranks)),
    "sd": pytest.approx(statistics.stdev(ranks)),
  }
  assert results["models"] == [
    {"source": f"run{seed}", "identity": f"identity {seed}", "folder": f"model_{seed}"} for seed in range(3)
  ]
  for seed, one in enumerate(reported):
    assert one.folder == tmp_path / "out" / f"model_{seed}"
    assert json.loads((one.folder / "results.json").read_text())["model"]["source"] == f"run{seed}"


def test_evaluation_is_idempotent_and_another_one_is_refused(tmp_path):
  out = tmp_path / "out"
  evaluate([target()], out)
  before = (out / "results.json").read_bytes()
  evaluate([target()], out)
  assert (out / "results.json").read_bytes() == before
  other = target(config={"data": {"num_frames": 3, "data_dir": "/disk0"}})
  with pytest.raises(UserError, match=r"another evaluation \(.*data\.num_frames.*6.*3.*--workdir"):
    evaluate([other], out)
  assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_folder_of_a_run_is_refused(tmp_path, name):
  (tmp_path / name).write_text("{}")
  with pytest.raises(UserError, match=r"holds a run; name another folder"):
    evaluate([target()], tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_file_as_workdir_is_refused(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is a file; name a folder"):
    evaluate([target()], tmp_path / "file")


def test_targets_that_are_not_comparable_leave_no_folder(tmp_path):
  with pytest.raises(UserError, match="are the same weights"):
    evaluate([target(), target()], tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_non_finite_features_are_refused(tmp_path):
  bad = random_embeddings(queries=np.full((12, 8), np.nan, np.float32))
  with pytest.raises(UserError, match="split test: the features of 12 of 12 are not finite"):
    evaluate([target(embeddings=bad)], tmp_path / "out")
  assert not (tmp_path / "out" / "results.json").exists()
