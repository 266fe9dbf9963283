"""Unset options of an evaluation: from the run, the recipe of the corpus, or the base configuration."""

import pytest
from ml_collections import ConfigDict

from clipvip_jax.configs import msrvtt, post_pretrain
from clipvip_jax.evaluation.evaluation_config import EvaluationOptions, evaluation_config
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.sources import Weights


def resolve(dataset, *, patch_size=32, run=None, positions=77, **options):
  sizes = {"patch_size": patch_size, "text": {"positions": positions, "vocab_size": 49408}}
  weights = Weights("w", {}, ConfigDict(sizes), False, run)
  return evaluation_config(weights, EvaluationOptions(dataset, **options))


def data(*args, **kwargs):
  section = resolve(*args, **kwargs).data
  return section.config, section.num_frames, section.text_length


def test_recipe_of_the_corpus():
  config = resolve("msrvtt")
  assert (config.data.name, config.data.config, config.data.tokenizer) == ("msrvtt", "9k", "clip")
  assert (config.data.num_frames, config.data.text_length, config.model.dtype) == (12, 50, "bfloat16")
  assert (config.evaluate.final_splits, config.evaluate.query) == (("test",), "description")
  assert data("didemo")[1:] == (12, 50) and data("didemo", patch_size=16)[1:] == (12, 70)
  assert data("activitynet_captions")[1:] == (32, 70)
  assert resolve("activitynet_captions").evaluate.final_splits == ("validation",)


def test_protocol_and_splits_of_the_corpus_and_its_configuration():
  def of(dataset, **options):
    config = resolve(dataset, **options)
    return config.data.config, config.evaluate.final_splits, config.evaluate.protocol

  assert of("msrvtt/full", patch_size=16) == ("full", ("test",), "multi")
  assert of("msrvtt/full-fps_3") == ("full-fps_3", ("test",), "multi")
  assert of("msrvtt/full", protocol="single") == ("full", ("test",), "single")
  assert of("msrvtt/7k") == ("7k", ("test",), "single")
  assert of("msvd") == of("vatex") == ("default", ("test",), "multi")
  assert of("youcook2/full") == ("full", ("validation",), "single")
  assert data("msvd") == ("default", 12, 32)
  for variant, protocols in (
    ("", {"full": "multi", "7k": "single"}),
    ("full_protocol", {"full": "multi", "9k": "multi"}),
  ):
    for name, protocol in protocols.items():
      assert of(f"msrvtt/{name}", run=msrvtt.get_config(variant)) == (name, ("test",), protocol), (variant, name)


def test_corpus_without_recipe_takes_the_base_and_counts_no_captions():
  config = resolve("webvid", split="validation")
  assert data("webvid") == ("", 12, 70) and config.data.caption == ""
  assert config.evaluate.final_splits == ("validation",)


def test_options_come_first():
  config = resolve(
    "msrvtt/full",
    data_dir="/d",
    split="train",
    num_frames=3,
    text_length=20,
    query="caption",
    batch_size=7,
    dtype="float32",
    protocol="multi",
    num_workers=0,
    tokenizer="t.json",
  )
  assert (config.data.config, config.data.data_dir, config.data.tokenizer) == ("full", "/d", "t.json")
  assert (config.data.num_frames, config.data.text_length, config.model.dtype) == (3, 20, "float32")
  assert (config.evaluate.query, config.evaluate.batch_size, config.evaluate.protocol) == ("caption", 7, "multi")
  assert (config.evaluate.final_splits, config.host.num_workers) == (("train",), 0)


def test_crop_is_that_of_the_option_or_of_the_run_on_any_corpus():
  run = post_pretrain.get_config("smoke")
  assert resolve("msrvtt").data.crop == resolve("msrvtt", run=run).data.crop == "squash"
  run.data.crop = "center"
  assert resolve("moving_shapes", run=run).data.crop == resolve("msrvtt", run=run).data.crop == "center"
  assert resolve("msrvtt", run=run, crop="squash").data.crop == "squash"
  with run.unlocked():
    del run.data.crop  # of an earlier version
  assert resolve("moving_shapes", run=run).data.crop == "squash"


def test_pixels_are_those_of_the_option_or_of_a_run_on_the_corpus():
  run = post_pretrain.get_config("smoke")
  run.data.pixels = "uint8"
  assert resolve("moving_shapes", run=run).data.pixels == "uint8"
  assert resolve("msrvtt", run=run).data.pixels == resolve("msrvtt").data.pixels == "float32"
  assert resolve("msrvtt", pixels="uint8").data.pixels == "uint8"


def test_text_length_is_limited_by_the_positions_of_foreign_weights():
  assert data("msrvtt", positions=16)[2] == 16
  assert data("msrvtt", positions=16, text_length=20)[2] == 20, "an option is not changed"


def test_run_on_the_same_corpus():
  run = post_pretrain.get_config("smoke")
  assert data("moving_shapes", run=run) == ("smoke", 6, 28)
  assert resolve("moving_shapes", run=run).evaluate.final_splits == ("test", "test_unseen")
  assert data("moving_shapes/demo", run=run, num_frames=3)[:2] == ("demo", 3)


def test_run_on_another_corpus_leaves_the_recipe_or_gives_frames_and_text_length():
  run = post_pretrain.get_config("smoke")
  assert data("msrvtt", run=run)[1:] == (12, 50)
  assert data("webvid", run=run)[1:] == (6, 28)


@pytest.mark.parametrize(("data_dir", "evaluate_dir"), [("a", ""), ("b", "a")])
def test_run_that_was_evaluated_on_the_corpus(data_dir, evaluate_dir):
  run = post_pretrain.get_config("smoke")
  run.data.data_dir = data_dir
  run.evaluate.update({"name": "didemo", "config": "mine", "final_splits": ("validation",), "data_dir": evaluate_dir})
  config = resolve("didemo", run=run)
  assert (config.data.config, config.data.num_frames, config.data.text_length) == ("mine", 6, 28)
  assert config.evaluate.final_splits == ("validation",) and config.data.data_dir == "a"


def test_run_with_a_foreign_config_is_refused():
  run = ConfigDict({**post_pretrain.get_config("smoke").to_dict(), "optimizer": 3})
  with pytest.raises(UserError, match=r"w: its config\.json is not a configuration of this program .*; restore the"):
    resolve("webvid", run=run)
