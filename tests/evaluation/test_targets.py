"""Evaluation targets: a model on a corpus, and kept embeddings; what does not fit is refused."""

import dataclasses

import numpy as np
import pytest
from embeddings import random_embeddings

from clipvip_jax.evaluation import evaluator, split_embeddings, targets
from clipvip_jax.evaluation.targets import EvaluationOptions
from clipvip_jax.utils.errors import UserError


def options(corpora, **changes):
  fields = {"split": "train", "num_frames": 2, "batch_size": 16, "dtype": "float32", "num_workers": 0}
  return EvaluationOptions(**{"dataset": "msrvtt/9k", "data_dir": str(corpora), **fields, **changes})


def test_plain_clip_takes_mean_pooling_and_the_recipe(corpora, clip):
  target = targets.from_model(str(clip), options(corpora))
  config = target.about["config"]
  assert config["model"]["temporal"] == "mean"
  assert config["data"]["text_length"] == 16, "the recipe's 50 exceed the positions of the weights"
  assert config["evaluate"]["query"] == "description" and config["data"]["caption"] == ""
  assert (config["data"]["num_frames"], config["evaluate"]["batch_size"]) == (2, 16)
  assert target.corpus_name == "msrvtt/9k/1.0.0" and target.about["corpus"]["pixels"] == "as drawn"
  assert target.about["preprocessing"]["frames"].startswith("2 of each clip, evenly spread")
  assert "run" not in target.about and target.loaded is not None


def test_embeddings_are_those_of_the_model(corpora, clip):
  target = targets.from_model(str(clip), options(corpora))
  embeddings = target.splits["train"]()
  model = target.loaded.model
  np.testing.assert_allclose(embeddings.queries, model.embed_texts(embeddings.texts), atol=1e-6)
  assert embeddings.about == target.about and len(embeddings.ids) == 19


def test_uint8_pixels_change_features_by_their_rounding(corpora, clip):
  exact, rounded = (targets.from_model(str(clip), options(corpora, pixels=pixels)) for pixels in (None, "uint8"))
  assert exact.about["preprocessing"]["pixels"] == "resized and normalised in float32"
  assert rounded.about["preprocessing"]["pixels"] == "resized, rounded to 8 bits, then normalised"
  videos, expected = (target.splits["train"]().videos for target in (rounded, exact))
  assert 0 < np.abs(videos - expected).max() < 0.02


def test_crop_applies_to_the_model_and_to_the_corpus(corpora, clip, monkeypatch):
  crops = []
  batcher = evaluator.ClipBatcher
  monkeypatch.setattr(evaluator, "ClipBatcher", lambda **fields: crops.append(fields["crop"]) or batcher(**fields))
  target = targets.from_model(str(clip), options(corpora, crop="center"))
  embeddings = target.splits["train"]()
  assert crops == [target.loaded.model.config.data.crop] == [embeddings.about["config"]["data"]["crop"]] == ["center"]
  size = target.about["preprocessing"]["size"]
  assert size == "shorter side resized to 32 pixels, centre cropped to 32 x 32, bicubic, no antialiasing"
  squashed = targets.from_model(str(clip), options(corpora)).about
  assert squashed["preprocessing"]["size"] == "squashed to 32 x 32 pixels, bicubic, no antialiasing"
  assert squashed["config"]["data"]["crop"] == "squash" and squashed["model"] != target.about["model"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"crop": "middle"}, "crop='middle' is unknown; use squash or center"),
    ({"split": "tset"}, "no split 'tset'.* train"),
    ({"query": "descripton"}, "'descripton'.* description"),
    ({"protocol": "many"}, "--protocol='many' .*single, multi"),
    ({"batch_size": 12}, "--batch_size=12 .*8"),
    ({"dataset": "msrvtt/8k"}, r"'8k'.*9k, full.*--data_dir"),
    (
      {"dataset": "msrvtt/full", "protocol": "single"},
      r"9 of 19 clips have several queries, first 'clip1' with 2; --protocol=multi",
    ),
    ({"dtype": "float8"}, "dtype='float8' .*float32, bfloat16"),
    ({"temporal": "max"}, "temporal='max'"),
    ({"tokenizer": "clip"}, r"tokenizer 'clip' has 49408 tokens, the weights of .* have 100; use the tokenizer"),
  ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(corpora, clip, changes, message):
  with pytest.raises(UserError, match=message) as refused:
    targets.from_model(str(clip), options(corpora, **changes))
  assert "\n" not in str(refused.value)


def test_vocabulary_without_tokenizer_is_refused(corpora, clip, tmp_path):
  for name in ("model.safetensors", "config.json"):
    (tmp_path / name).write_bytes((clip / name).read_bytes())
  with pytest.raises(UserError, match="no tokenizer is known for a vocabulary of 100; pass one with --tokenizer"):
    targets.from_model(str(tmp_path), options(corpora))


def kept(folder, split="test", **changes):
  folder.mkdir(exist_ok=True)
  path = folder / split_embeddings.file_name(split)
  split_embeddings.write_embeddings(path, random_embeddings(split=split, **changes))
  return path


def test_kept_embeddings_of_one_model_and_of_several(tmp_path):
  about = {"model": {"identity": "x"}, "corpus": {"name": "c"}, "unknown": 1}
  path = kept(tmp_path, about=about)
  kept(tmp_path, "validation", about=about)
  (target,) = targets.from_files(tmp_path)
  assert set(target.splits) == {"test", "validation"} and target.loaded is None and target.corpus_name == "c"
  assert target.about["model"] == {"identity": "x"} and "unknown" not in target.about
  np.testing.assert_array_equal(target.splits["test"]().videos, random_embeddings().videos)
  (target,) = targets.from_files(tmp_path, split="test")
  assert set(target.splits) == {"test"}
  assert set(targets.from_files(path)[0].splits) == {"test"}
  several = tmp_path / "several"
  several.mkdir()
  for number in range(12):
    kept(several / f"model_{number}", about={"model": {"identity": str(number)}})
  identities = [target.about["model"]["identity"] for target in targets.from_files(several)]
  assert identities == [str(number) for number in range(12)]


def test_missing_and_mixed_embeddings_are_refused(tmp_path):
  path = kept(tmp_path, about={"model": {"identity": "x"}})
  with pytest.raises(UserError, match=r"holds no embeddings_train\.safetensors; name the workdir"):
    targets.from_files(tmp_path, split="train")
  with pytest.raises(UserError, match="holds the split 'test', not --split=train"):
    targets.from_files(path, split="train")
  with pytest.raises(UserError, match=r"none': no such file"):
    targets.from_files(tmp_path / "none")
  kept(tmp_path, "validation", about={"model": {"identity": "y"}})
  with pytest.raises(UserError, match=r"embeddings_validation.* differ in model or settings; name one"):
    targets.from_files(tmp_path)


def test_protocol_is_that_of_the_evaluation_unless_it_is_named(tmp_path):
  twice = dataclasses.replace(random_embeddings(), labels=[0, 0, *range(2, 12)])
  twice = dataclasses.replace(twice, videos=twice.videos[1:], ids=twice.ids[1:], twins=twice.twins[1:])
  twice = dataclasses.replace(twice, labels=[max(label - 1, 0) for label in twice.labels])
  path = tmp_path / "e"
  for protocol in ("single", "multi"):
    about = {"config": {"evaluate": {"protocol": protocol}}}
    split_embeddings.write_embeddings(path, dataclasses.replace(twice, about=about))
    if protocol == "multi":
      assert targets.from_files(path)[0].about["config"]["evaluate"]["protocol"] == "multi"
    else:
      with pytest.raises(UserError, match=r"1 of 11 clips have several queries.*--protocol=multi"):
        targets.from_files(path)
      assert targets.from_files(path, protocol="multi")
  with pytest.raises(UserError, match=r"several queries.*--protocol=multi"):
    targets.from_files(path, protocol="single")


@pytest.mark.parametrize(
  ("about", "message"),
  [
    ({"config": 3}, "about.config is 3"),
    ({"num_params": "3"}, "about.num_params is 3"),
    ({"num_params": 10**400}, r"about.num_params is 1000+\.\.\.$"),
    ({"model": "\x1b\n"}, r"about.model is \\x1b\\n$"),
    ({"config": {"evaluate": {"protocol": []}}}, r"--protocol=\[\] "),
  ],
)
def test_hostile_metadata_is_refused_in_one_line(tmp_path, about, message):
  path = kept(tmp_path, about=about)
  with pytest.raises(UserError, match=message) as refused:
    targets.from_files(path)
  assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
