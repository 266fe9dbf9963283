"""Complete runs on a small corpus: their files, their reuse and their variants."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_runs import config

import clipvip_jax
from clipvip_jax import convert
from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder
from clipvip_jax.distributed import sharding
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.input_pipeline import list_media
from clipvip_jax.runs import checkpoint
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.tracking import background
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.unoptimized]


def read_rows(workdir, kind):
  rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [row for row in rows if row["kind"] == kind]


def test_results_name_corpus_configuration_and_versions(finished):
  workdir, results = finished
  assert json.loads((workdir / "results.json").read_text()) == results
  assert set(results["splits"]) == {"test", "test_unseen"}
  test = results["splits"]["test"]
  assert test["size"] == test["expected"] == test["queries"] == test["twins"]["count"] == 32
  assert test["missing"] == 0
  assert 0 <= test["missing_captions"] < 8
  for kind in ("plain", "dsl"):
    for direction in ("text_to_video", "video_to_text"):
      assert set(test[kind][direction]) == {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}
  assert results["step"] == 12 and results["best_step"] in (6, 12)
  assert results["config"]["optimizer"]["learning_rate"] == 2e-3
  assert results["versions"]["jax"] == jax.__version__
  assert results["corpus"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "JPEG" in results["corpus"]["pixels"]


def test_writes_report_history_and_tensorboard_files(finished):
  workdir, _ = finished
  assert (workdir / "report.html").read_text().count("data:image/jpeg") >= 4 * 5
  assert list(workdir.glob("events.out.tfevents.*"))
  assert "vision/transformer/block_0/mlp/up/kernel" in (workdir / "parameters.txt").read_text()
  assert [row["step"] for row in read_rows(workdir, "train")] == [3, 6, 9, 12]
  assert [row["step"] for row in read_rows(workdir, "eval")] == [6, 12]


def test_reports_the_checkpoint_with_the_highest_recall(finished):
  workdir, results = finished
  scores = {row["step"]: row["metrics"]["plain"]["text_to_video"]["R@1"] for row in read_rows(workdir, "eval")}
  best = max(scores, key=lambda step: (scores[step], step))
  assert results["best_step"] == best == Checkpoints(workdir / "checkpoints", 3).best_step()


def test_a_finished_run_is_idempotent(finished, corpora):
  workdir, results = finished
  before = (workdir / "metrics.jsonl").read_bytes()
  assert trainer.train(config(corpora), workdir) == results
  assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_tracker_records_the_run_and_one_that_hangs_changes_nothing(finished, corpora, tmp_path, monkeypatch):
  workdir, results = finished
  monkeypatch.setenv("ODD_TRACKER", "hangs")
  monkeypatch.setenv("TRACKER_FAILS_IN", "start metrics")  # the first call: both trackers write to one file
  monkeypatch.setitem(background.CLOSE_SECONDS, "finished", 5.0)
  tracked, trackers = tmp_path / "run", "odd_trackers:Recorder,odd_trackers:Fails"
  again = trainer.train(config(corpora, **{"host.tracker": trackers}), tracked)
  assert {**again, "config": None} == {**results, "config": None}
  assert (tracked / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
  assert (tracked / "report.html").read_text() == (workdir / "report.html").read_text().replace("tensorboard", trackers)
  jax.tree.map(
    np.testing.assert_array_equal, *(checkpoint.read_params(path / "checkpoints")[0] for path in (workdir, tracked))
  )
  calls = [json.loads(line) for line in (tracked / "recorded.jsonl").read_text().splitlines()]
  assert calls[0] == ["start", "", 0, {**again["config"]}]
  metrics = [(step, values) for name, step, *values in calls[1:-1] if name == "metrics"]
  losses = [(step, values["train/loss"]) for step, (values,) in metrics if "train/loss" in values]
  assert losses == [(row["step"], row["loss"]) for row in read_rows(workdir, "train")]
  recalls = [
    (step, values["validation/text_to_video/R@1"]) for step, (values,) in metrics if "train/loss" not in values
  ]
  rows = read_rows(workdir, "eval")
  assert recalls == [(row["step"], row["metrics"]["plain"]["text_to_video"]["R@1"]) for row in rows]
  name, step, final, page = calls[-2]
  assert (name, step, page) == ("results", 12, (tracked / "report.html").read_text())
  for split in ("test", "test_unseen"):
    metrics = results["splits"][split]
    assert final[f"final/{split}/plain/text_to_video/R@1"] == metrics["plain"]["text_to_video"]["R@1"]
    assert final[f"final/{split}/dsl/video_to_text/mean_rank"] == metrics["dsl"]["video_to_text"]["mean_rank"]
    assert final[f"final/{split}/twins/accuracy"] == metrics["twins"]["accuracy"]
  assert calls[-1] == ["finish", "finished"]


def test_rejects_another_configuration_in_the_workdir_and_changes_no_file(finished, corpora):
  workdir, _ = finished
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
  with pytest.raises(UserError, match=r"seed: 0 .*1 .*--workdir"):
    trainer.train(config(corpora, seed=1), workdir)
  assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_a_run_whose_files_were_edited_neither_resumes_nor_loads(finished, corpora, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(finished[0], workdir)
  path, vocabulary = workdir / "config.json", workdir / "tokenizer.json"
  content = path.read_text()
  path.write_text(content.replace('"temporal": "proxies"', '"temporal": "mean"'))
  with pytest.raises(UserError, match=r"config\.json was changed since .*model\.temporal: 'proxies' there, 'mean' now"):
    clipvip_jax.load(workdir)
  with pytest.raises(UserError, match=r"checkpoints/\d+ was trained with another config \(model\.temporal: .*restore"):
    setup.prepare(config(corpora, **{"model.temporal": "mean"}), workdir)
  path.write_text(content)
  vocabulary.write_text(vocabulary.read_text().replace('"square"', '"sqaure"'))
  with pytest.raises(UserError, match=r"tokenizer\.json' was changed since the weights were trained"):
    clipvip_jax.load(workdir)
  with pytest.raises(UserError, match=r"another corpus \(tokenizer: "):
    setup.prepare(config(corpora), workdir)


def test_the_loaded_model_gives_the_features_of_the_evaluation(finished, corpora, tmp_path):
  workdir, results = finished
  components = setup.prepare(config(corpora), workdir)
  params, step = checkpoint.read_params(workdir / "checkpoints")
  assert step == results["best_step"]
  evaluator = Evaluator(
    components.model, sharding.make_mesh(), components.corpus, components.tokenizer, config(corpora)
  )
  videos, queries = evaluator.features(params, "test")

  model = clipvip_jax.load(workdir)
  for number in range(len(videos)):
    clip = tmp_path / "frames" / f"{number:03d}"
    clip.mkdir(parents=True)
    for index, jpeg in enumerate(components.corpus.records("test")[number]["frames"]):
      (clip / f"{index}.jpg").write_bytes(jpeg)
  np.testing.assert_allclose(model.embed_videos(list_media.list_videos(tmp_path / "frames")), videos, atol=1e-6)
  texts = components.corpus.texts("test").queries
  np.testing.assert_allclose(model.embed_texts(texts), queries, atol=1e-6)


def test_a_run_is_a_source_of_weights_by_step(finished, tmp_path):
  workdir, results = finished
  best, first = clipvip_jax.load(workdir), clipvip_jax.load(f"{workdir}@6")
  assert (best.identity == first.identity) == (results["best_step"] == 6)
  with pytest.raises(UserError, match=r"no checkpoint of step 5; choose one of: .*12"):
    clipvip_jax.load(f"{workdir}@5")
  convert.main([str(workdir), str(tmp_path / "run.safetensors")])
  with pytest.raises(UserError, match=r"vision_heads=4 contradicts the run .*, which has 2; omit the option"):
    convert.main([str(workdir), str(tmp_path / "other.safetensors"), "--vision_heads=4"])
  options = {"vision_heads": 2, "text_heads": 2, "tokenizer": str(workdir / "tokenizer.json")}
  converted = clipvip_jax.load(tmp_path / "run.safetensors", **options)
  clip = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
  np.testing.assert_array_equal(converted.embed_videos([clip]), best.embed_videos([clip]))


def test_initializes_from_another_run(finished, corpora, tmp_path):
  workdir, _ = finished
  changes = {"init_from": str(workdir), "train.num_steps": 1, "optimizer.learning_rate": 0.0}
  results = trainer.train(config(corpora, **changes), tmp_path / "second")
  assert results["initial_weights"] == json.loads((tmp_path / "second" / "initial_weights.json").read_text())
  params, _ = checkpoint.read_params(tmp_path / "second" / "checkpoints")
  expected, _ = checkpoint.read_params(workdir / "checkpoints")
  # A learning rate of 0 becomes 1e-8.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), params, expected)


def test_evaluation_batch_size_and_workers_change_no_number(finished, corpora, tmp_path):
  """Evaluates 32 clips in batches of 24: the last one is padded."""
  changes = {"evaluate.batch_size": 24, "host.num_workers": 2}
  workdir, results = finished
  again = trainer.train(config(corpora, **changes), tmp_path / "run")
  assert again["splits"] == results["splits"]
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()


def test_trains_on_a_fraction_with_patch_dropout_and_a_frozen_tower_and_evaluates_on_another_corpus(
  finished, corpora, tmp_path
):
  changes = {
    "init_from": str(finished[0]),
    "data.fraction": 0.5,
    "train.num_steps": 3,
    "evaluate.name": "moving_shapes",
    "evaluate.config": "smoke",
    "evaluate.final_splits": ("validation",),
  }
  results = trainer.train(config(corpora, "smoke,patch_dropout,frozen_text,remat", **changes), tmp_path / "run")
  assert set(results["splits"]) == {"validation"}
  assert results["evaluated"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "evaluated" in json.loads((tmp_path / "run" / "corpus.json").read_text())
  after, before = (checkpoint.read_params(path / "checkpoints")[0] for path in (tmp_path / "run", finished[0]))
  jax.tree.map(np.testing.assert_array_equal, after["text"], before["text"])
  assert np.any(after["vision"]["added_proxies"] != before["vision"]["added_proxies"])
  clipvip_jax.load(tmp_path / "run")


def test_sharded_parameters_give_the_losses_of_replicated_ones(finished, corpora, tmp_path):
  axes = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "evaluate.batch_size": 16}
  trainer.train(config(corpora, **axes), tmp_path / "run")
  losses, expected = ([row["loss"] for row in read_rows(path, "train")] for path in (tmp_path / "run", finished[0]))
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  assert "class token" in (tmp_path / "run" / "report.html").read_text()
