"""Components of a run, and inputs that are rejected before anything is compiled or written."""

import json
import re

import jax
import numpy as np
import pytest
import simplejpeg
import written_corpus
from small_runs import config, mixed_config

from clipvip_jax.distributed import sharding
from clipvip_jax.training import setup
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

REJECTED = [
  ({"data.name": "moving_shape"}, r"data\.name='moving_shape'.*choose one of: .*moving_shapes"),
  ({"data.config": "huge"}, r"data\.config='huge'.*demo, smoke"),
  ({"data.prepare": False, "data.data_dir": "nowhere"}, r"is not in nowhere.*--config\.data\.prepare=True"),
  ({"data.train_split": "tran"}, r"'tran'.*train, validation"),
  ({"data.subtitle": "speech"}, r"'speech'.*subtitle"),
  ({"data.tokenizer": "clip"}, r"49408 tokens, but model\.text\.vocab_size is 512; set model\.text\.vocab_size=49408"),
  ({"data.tokenizer": "none.json"}, r"'none\.json' \(No such file or directory\).*'clip' or the path of a tokenizer"),
  ({"evaluate.name": "moving_shape"}, r"evaluate\.name='moving_shape'.*choose one of: .*moving_shapes"),
  ({"evaluate.final_splits": ("tets",)}, r"'tets'.*test"),
  ({"evaluate.query": "descripton"}, r"'descripton'.*description"),
  (
    {"optimizer.lr_multipliers": {"visoin": 0.1}},
    r"lr_multipliers: no parameter name begins with 'visoin'; use the first parts of",
  ),
  (
    {"optimizer.lr_multipliers": {"logit": 0.1}},
    r"lr_multipliers: no parameter name begins with 'logit'; use the",
  ),
  ({"optimizer.lr_multipliers": {"text": -1.0}}, r"lr_multipliers\['text'\]=-1\.0 is out of range; allowed: 0 or more"),
  ({"host.profile_steps": "5-13"}, r"host\.profile_steps='5-13' exceeds the 12 steps of the run; use at most 12"),
  ({"optimizer.frozen": ("txet/",)}, r"frozen: no parameter name begins with 'txet/'; use the first parts of a name"),
]
REJECTED_STREAMS = [
  ({"name": "image"}, r"mix\.image_text\.name='image'.*moving_shapes"),
  ({"config": "none"}, r"mix\.image_text\.config='none' .*smoke"),
  ({"caption": "captoin"}, r"mix\.image_text: .*'captoin'.*caption"),
  ({"train_split": "tran"}, r"mix\.image_text: .*'tran'"),
]


def fields(value):
  return ",".join(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("changes", "message"), REJECTED, ids=fields)
def test_rejects_inputs_without_a_trace_in_the_workdir(corpora, tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    setup.prepare(config(corpora, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "message"), REJECTED_STREAMS, ids=fields)
def test_names_the_section_of_a_rejected_mixed_corpus(corpora, tmp_path, changes, message):
  mixed = mixed_config(corpora)
  mixed.mix.image_text.update(changes)
  with pytest.raises(UserError, match=message):
    setup.prepare(mixed, tmp_path / "run")


def write_corpus(folder, texts):
  """A corpus of records with these texts by field; its validation split has queries."""
  jpeg = simplejpeg.encode_jpeg(np.zeros((32, 32, 3), np.uint8))
  records = [{"id": str(i), "frames": [jpeg], **fields} for i, fields in enumerate(texts)]
  written_corpus.write(folder, records, name="video_manifest", config="mine")
  return {"data.name": "video_manifest", "data.config": "mine", "data.prepare": False, "data.data_dir": str(folder)}


@pytest.mark.parametrize("texts", [[{"description": ["a"]}] * 3, [{"description": ["a"], "subtitle": " "}], [{}] * 2])
def test_rejects_a_corpus_without_the_texts_that_the_loss_reads(tmp_path, texts):
  changes = write_corpus(tmp_path / "corpora", texts)
  message = rf"none of the {len(texts)} records .*mine.*train, has a text in data\.subtitle='subtitle' or"
  with pytest.raises(UserError, match=message) as refused:
    setup.prepare(config(tmp_path, **changes), tmp_path / "run")
  remedy = r"set --config\.data\.subtitle or --config\.data\.caption to a field with texts: "
  assert re.search(remedy + (rf"'description' \({len(texts)}\)" if texts[0] else "none"), str(refused.value))


def test_warns_of_a_text_that_few_records_have(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  texts = [{"description": ["a"], "subtitle": "b" * (i == 0), "caption": "c"} for i in range(3)]
  changes = {"evaluate.selection_split": "train", "evaluate.final_splits": (), "evaluate.query": "description"}
  setup.prepare(config(tmp_path, **write_corpus(tmp_path / "corpora", texts), **changes), tmp_path / "run")
  assert "1 of 3 records" in caplog.text and "have a text in data.subtitle='subtitle'" in caplog.text
  assert "data.caption" not in caplog.text


def test_the_abstract_state_has_shapes_and_shardings_of_every_parameter(corpora, tmp_path):
  components = setup.prepare(config(corpora, **{"mesh.fsdp": 2, "mesh.data": 4}), tmp_path / "run")
  state = components.abstract_state
  kernel = state.params["vision"]["transformer"]["block_0"]["mlp"]["up"]["kernel"]
  assert kernel.shape == (32, 64) and kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
  assert all(x.sharding.mesh is components.mesh for x in jax.tree.leaves(state))
  assert components.mesh.shape == {sharding.DATA: 4, sharding.FSDP: 2, sharding.TENSOR: 1}


def test_total_steps_follow_from_epochs_where_num_steps_is_0(corpora, tmp_path):
  changes = {"train.num_steps": 0, "train.epochs": 3, "train.batch_size": 16}
  components = setup.prepare(config(corpora, **changes), tmp_path / "run")
  num_records = len(components.corpus.records("train"))
  assert components.total_steps == 3 * -(-num_records // 16)
  assert setup.prepare(config(corpora, **{"train.num_steps": 7}), tmp_path / "run").total_steps == 7


def test_mixed_streams_draw_by_different_seeds_and_crop_alike(corpora, tmp_path):
  mixed = mixed_config(corpora)
  mixed.data.crop = "center"
  components = setup.prepare(mixed, tmp_path / "run")
  seeds = [stream.batcher.jitter_seed for stream in components.streams]
  assert seeds[0] == components.config.seed and len(set(seeds)) == len(seeds) == 3
  assert {stream.batcher.crop for stream in components.streams} == {"center"}
  assert set(components.corpus_identity["mix"]) == {"video_text", "image_text"}


def test_a_fraction_uses_part_of_the_records(corpora, tmp_path):
  (stream,) = setup.prepare(config(corpora, **{"data.fraction": 0.5}), tmp_path / "run").streams
  assert stream.sampler.num_records == round(len(stream.batcher.records) / 2)


def test_an_evaluated_corpus_is_found_in_the_directory_of_the_training_corpus(corpora, tmp_path):
  changes = {"evaluate.name": "moving_shapes", "evaluate.config": "smoke"}
  components = setup.prepare(config(corpora, **changes), tmp_path / "run")
  assert components.eval_corpus is not components.corpus
  assert components.corpus_identity["evaluated"] == components.eval_corpus.identity()


def test_a_vocabulary_is_built_from_texts_once_and_then_loaded(corpora, tmp_path):
  built = setup.prepare(config(corpora), tmp_path).tokenizer
  built.save(tmp_path / "tokenizer.json")
  loaded = setup.prepare(config(corpora), tmp_path).tokenizer
  texts = ["a red square moves to the left", "unknownword"]
  np.testing.assert_array_equal(loaded(texts, 12), built(texts, 12))


def test_a_run_that_starts_from_another_has_its_vocabulary(corpora, tmp_path):
  """Its token embedding has rows for those ids; texts of the new run alone would give others."""
  first, start = tmp_path / "first", tmp_path / "start"
  (first / "checkpoints").mkdir(parents=True)
  components = setup.prepare(config(corpora), first)
  (first / "config.json").write_text(json.dumps(config_tree.to_json_dict(components.config)))
  components.tokenizer.save(first / "tokenizer.json")
  captions = {"loss": "vs", "data.subtitle": "caption", "data.caption": ""}
  built = setup.prepare(config(corpora, **captions), start).tokenizer
  assert built.digest != components.tokenizer.digest
  loaded = setup.prepare(config(corpora, init_from=f"{first}@4", **captions), start).tokenizer
  assert loaded.digest == components.tokenizer.digest
  start.mkdir()
  built.save(start / "tokenizer.json")  # of an earlier start, which has the precedence
  assert setup.prepare(config(corpora, init_from=str(first), **captions), start).tokenizer.digest == built.digest
