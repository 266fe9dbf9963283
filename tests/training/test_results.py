"""Whole runs on a small corpus: what they leave, and what that is good for."""

import json
import types

import jax
import numpy as np
import pytest
from small_runs import config

import clipvip_jax
from clipvip_jax import convert
from clipvip_jax.distributed import sharding
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.inference import index_builder
from clipvip_jax.input_pipeline import read_media
from clipvip_jax.runs import checkpoint
from clipvip_jax.runs.checkpoint import Checkpoints
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils.errors import UserError
from configs import post_pretrain
from data.moving_shapes.moving_shapes_dataset_builder import Builder


def test_a_run_writes_results_that_say_what_made_them(finished):
  folder, results = finished
  assert json.loads((folder / "results.json").read_text()) == results
  assert set(results["splits"]) == {"test", "test_unseen"}
  test = results["splits"]["test"]
  assert test["size"] == test["expected"] == test["queries"] == test["twins"]["count"] == 32
  assert test["missing"] == 0
  assert 0 <= test["missing_captions"] < 8
  for protocol in ("plain", "dsl"):
    for direction in ("text_to_video", "video_to_text"):
      assert set(test[protocol][direction]) == {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}
  assert results["step"] == 12 and results["best_step"] in (6, 12)
  assert results["config"]["optimizer"]["learning_rate"] == 2e-3
  assert results["versions"]["jax"] == jax.__version__
  assert results["corpus"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "JPEG" in results["corpus"]["pixels"]


def test_a_run_can_be_looked_at(finished):
  folder, _ = finished
  page = (folder / "report.html").read_text()
  assert page.count("data:image/jpeg") >= 4 * 5
  assert list(folder.glob("events.out.tfevents.*"))
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if row["kind"] == "train"] == [3, 6, 9, 12]
  assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12]


def test_the_best_checkpoint_is_the_one_of_the_results(finished):
  folder, results = finished
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  scores = {row["step"]: row["metrics"]["plain"]["text_to_video"]["R@1"] for row in rows if row["kind"] == "eval"}
  best = max(scores, key=lambda step: (scores[step], step))
  assert results["best_step"] == best == Checkpoints(folder / "checkpoints", 3).best_step()


def test_a_finished_run_run_again_trains_no_more_and_gives_the_same(finished, corpus):
  folder, results = finished
  before = (folder / "metrics.jsonl").read_bytes()
  assert trainer.train(config(corpus), folder) == results
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_embeds_through_every_door_what_its_evaluation_embeds(finished, corpus, tmp_path):
  folder, results = finished
  parts_ = setup.prepare(config(corpus), folder)
  params, step = checkpoint.read_params(folder / "checkpoints")
  assert step == results["best_step"]
  evaluator = Evaluator(parts_.model, sharding.make_mesh(), parts_.corpus, parts_.tokenizer, config(corpus))
  videos, queries = evaluator.features(params, "test")

  model = clipvip_jax.load(folder)
  records = [parts_.corpus.source("test")[i] for i in range(len(videos))]
  for number, record in enumerate(records):
    clip = tmp_path / "frames" / f"{number:03d}"
    clip.mkdir(parents=True)
    for place, jpeg in enumerate(record["frames"]):
      (clip / f"{place}.jpg").write_bytes(jpeg)
  paths = read_media.list_videos(tmp_path / "frames")
  np.testing.assert_allclose(model.embed_videos(paths), videos, atol=1e-6)
  found = index_builder.build_index(model, paths, tmp_path / "index.safetensors")
  np.testing.assert_allclose(found.features, videos, atol=1e-6)
  texts = parts_.corpus.texts("test").queries
  np.testing.assert_allclose(model.embed_texts(texts), queries, atol=1e-6)


def test_a_run_is_a_source_by_step_for_conversion_and_for_another_run(finished, corpus, tmp_path):
  folder, results = finished
  best, first = clipvip_jax.load(folder), clipvip_jax.load(f"{folder}@6")
  assert (best.identity == first.identity) == (results["best_step"] == 6)
  with pytest.raises(UserError, match=r"no checkpoint of step 5; there are: .*12"):
    clipvip_jax.load(f"{folder}@5")
  convert.main([str(folder), str(tmp_path / "run.safetensors")])
  with pytest.raises(UserError, match=r"vision_heads=4 contradicts the run .*, which has 2; omit the option"):
    convert.main([str(folder), str(tmp_path / "other.safetensors"), "--vision_heads=4"])
  options = {"vision_heads": 2, "text_heads": 2, "tokenizer": str(folder / "tokenizer.json")}
  again = clipvip_jax.load(tmp_path / "run.safetensors", **options)
  clip = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
  np.testing.assert_array_equal(again.embed_videos([clip]), best.embed_videos([clip]))
  changes = {"init_from": str(folder), "train.num_steps": 1, "optimizer.learning_rate": 0.0}
  trainer.train(config(corpus, **changes), tmp_path / "second")
  second, _ = checkpoint.read_params(tmp_path / "second" / "checkpoints")
  expected, _ = checkpoint.read_params(folder / "checkpoints")
  # A schedule's zero is 1e-8, so that no update is lost.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), second, expected)


def test_batch_size_of_the_evaluation_and_worker_processes_change_no_number(finished, corpus, tmp_path):
  """32 clips in batches of 24: the last one is padded."""
  changes = {"evaluate.batch_size": 24, "host.num_workers": 2}
  folder, results = finished
  again = trainer.train(config(corpus, **changes), tmp_path / "run")
  assert again["splits"] == results["splits"]
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_run_on_part_of_a_corpus_with_half_the_patches_and_a_frozen_tower_evaluated_elsewhere(
  finished, corpus, tmp_path
):
  changes = {
    "init_from": str(finished[0]),
    "data.fraction": 0.5,
    "train.num_steps": 3,
    "evaluate.name": "moving_shapes",
  }
  changes |= {"evaluate.config": "smoke", "evaluate.final_splits": ("validation",)}
  results = trainer.train(config(corpus, "smoke,patch_dropout,frozen_text,remat", **changes), tmp_path / "run")
  assert set(results["splits"]) == {"validation"}
  assert results["evaluated"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "evaluated" in json.loads((tmp_path / "run" / "corpus.json").read_text())
  after, before = (checkpoint.read_params(folder / "checkpoints")[0] for folder in (tmp_path / "run", finished[0]))
  jax.tree.map(np.testing.assert_array_equal, after["text"], before["text"])
  assert np.any(after["vision"]["added_proxies"] != before["vision"]["added_proxies"])
  clipvip_jax.load(tmp_path / "run")  # which the options of training do not hinder


def test_a_run_whose_parameters_are_split_comes_to_its_end(finished, corpus, tmp_path):
  folder, _ = finished
  axes = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "evaluate.batch_size": 16}
  trainer.train(config(corpus, **axes), tmp_path / "run")
  ours, whole = (
    [row["loss"] for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    for path in (tmp_path / "run", folder)
  )
  np.testing.assert_allclose(ours, whole, rtol=1e-5)
  assert "class token" in (tmp_path / "run" / "report.html").read_text()


def test_the_last_steps_of_patch_dropout_see_whole_clips(monkeypatch):
  monkeypatch.setattr(trainer, "jit_train_step", lambda *_, whole_clips: "whole" if whole_clips else "part")

  def whole_steps(**changes):
    options = post_pretrain.get_config("patch_dropout")
    options.update_from_flattened_dict(changes)
    parts_ = types.SimpleNamespace(config=options, model=None, loss=None, total_steps=200)
    step = trainer._step_of_its_time(parts_, None, None, None, None)
    return [done for done in range(200) if step(done) == "whole"]

  assert whole_steps() == list(range(180, 200))
  assert whole_steps(**{"train.unmasked_fraction": 0.0}) == []
  assert whole_steps(**{"model.patch_dropout": 0.0}) == []  # where both would be the same
