"""Which configuration and corpus a run may be resumed with."""

import pytest

from clipvip_jax.configs import post_pretrain
from clipvip_jax.runs import workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError


def config(**changes):
  value = post_pretrain.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict(changes)
  return config_tree.to_json_dict(value)


def claimed(folder):
  config_tree.write_json(folder / "config.json", config())
  return folder


def test_the_same_config_resumes(tmp_path):
  workdir.check_config(claimed(tmp_path), config())
  workdir.check_config(tmp_path / "new", config())


def test_fields_that_do_not_affect_results_may_change(tmp_path):
  changes = {
    "host.num_workers": 3,
    "host.log_every": 1,
    "data.data_dir": "/elsewhere",
    "data.prepare": False,
  }
  workdir.check_config(claimed(tmp_path), config(**changes))


def test_directories_of_mixed_corpora_may_change(tmp_path):
  def mixed(**fields):
    return {**config(), "mix": {"images": {"data_dir": "", "weight": 1.0, **fields}}}

  workdir.claim(tmp_path, mixed(), {})
  workdir.check_config(tmp_path, mixed(data_dir="/elsewhere"))
  with pytest.raises(UserError, match=r"mix\.images\.weight"):
    workdir.check_config(tmp_path, mixed(weight=2.0))


def test_another_config_is_refused_with_both_values(tmp_path):
  with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.002 there, 0\.1 now\); choose another --workdir"):
    workdir.check_config(claimed(tmp_path), config(**{"optimizer.learning_rate": 0.1}))


def test_runs_of_earlier_versions_are_of_squashed_frames_in_float32(tmp_path):
  earlier = config()
  del earlier["data"]["crop"], earlier["data"]["pixels"]
  config_tree.write_json(tmp_path / "config.json", earlier)
  workdir.check_config(tmp_path, config())
  with pytest.raises(UserError, match=r"another config \(data\.crop: 'squash' there, 'center' now\)"):
    workdir.check_config(tmp_path, config(**{"data.crop": "center"}))
  with pytest.raises(UserError, match=r"another config \(data\.pixels: 'float32' there, 'uint8' now\)"):
    workdir.check_config(tmp_path, config(**{"data.pixels": "uint8"}))


def test_only_a_run_that_may_be_extended_ignores_the_number_of_steps(tmp_path):
  longer = config(**{"train.num_steps": 99, "train.epochs": 9})
  workdir.check_config(claimed(tmp_path), longer, extendable=True)
  with pytest.raises(UserError, match=r"train\.epochs: .*train\.num_steps: "):
    workdir.check_config(tmp_path, longer)
  with pytest.raises(UserError, match=r"another config \(seed: 0 there, 1 now\)"):
    workdir.check_config(tmp_path, config(**{"train.num_steps": 99, "seed": 1}), extendable=True)


def test_extensions_are_recorded_once_each_and_in_order(tmp_path):
  assert workdir.read_extensions(tmp_path) == []
  for old, new in ((12, 24), (12, 24), (24, 48)):  # a killed process repeats one
    workdir.record_extension(tmp_path, old, new)
  assert workdir.read_extensions(tmp_path) == [{"from": 12, "to": 24}, {"from": 24, "to": 48}]
  for content in ("[", '"ab"', '{"from": 1}', "[3]", "null"):
    (tmp_path / "extensions.json").write_text(content)
    with pytest.raises(UserError, match=r"extensions\.json cannot be read .*delete it"):
      workdir.read_extensions(tmp_path)


@pytest.mark.parametrize("older", [True, False])
def test_a_run_of_another_version_names_the_fields_and_advises_no_values(tmp_path, older):
  fewer, more = {"train": {"batch_size": 4}}, {"train": {"batch_size": 4, "whole_clips": 0.1}}
  recorded, current = (fewer, more) if older else (more, fewer)
  config_tree.write_json(tmp_path / "config.json", recorded)
  where = "here" if older else "there"
  message = rf"config\.json is of another version .*\(train\.whole_clips; the first exists only {where}\): continue it"
  with pytest.raises(UserError, match=message) as error:
    workdir.check_config(tmp_path, current)
  assert "same values" not in str(error.value)


@pytest.mark.parametrize(
  ("recorded", "current", "message"),
  [
    ({"task": "classification", "views": 1}, {"splits": ["test"]}, "an evaluation of classification, not of retrieval"),
    ({"splits": ["test"]}, {"task": "classification", "views": 1}, "an evaluation of retrieval, not of classification"),
  ],
)
def test_evaluations_of_different_tasks_are_told_apart(tmp_path, recorded, current, message):
  config_tree.write_json(tmp_path / "evaluation.json", recorded)
  with pytest.raises(UserError, match=f"^{tmp_path} holds {message}; choose another --workdir$"):
    workdir.check_same(tmp_path, "evaluation", current)


def test_another_corpus_is_refused(tmp_path):
  corpus = {"name": "shapes/1.0.0", "settings": {"seed": 0}, "records": {"train": 10}}
  workdir.claim(tmp_path / "run", config(), corpus)
  workdir.check_corpus(tmp_path / "run", corpus)
  with pytest.raises(UserError, match=r"another corpus \(records\.train: 10 there, 11 now\)"):
    workdir.check_corpus(tmp_path / "run", {**corpus, "records": {"train": 11}})


def test_a_file_and_an_unreadable_config_are_refused(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="is a file, not a folder; choose another"):
    workdir.check_config(tmp_path / "file", config())
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "checkpoints").write_text("x")
  with pytest.raises(UserError, match="checkpoints is a file, not a folder; restore or move it"):
    workdir.check_config(tmp_path / "run", config())
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match=r"config\.json cannot be read .*; choose another --workdir"):
    workdir.check_config(tmp_path, config())


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "report.html", "config.json", "environments.json"])
def test_a_folder_in_place_of_a_file_is_refused_at_the_start(tmp_path, name):
  workdir.claim(tmp_path, config(), {})
  (tmp_path / name).unlink(missing_ok=True)
  (tmp_path / name).mkdir()
  with pytest.raises(UserError, match=rf"^--workdir={tmp_path}: {name} is a folder, not a file; move it, or choose"):
    workdir.check_config(tmp_path, config(), extendable=True)


def test_a_workdir_of_an_evaluation_is_refused(tmp_path):
  (tmp_path / "evaluation.json").write_text("{}")
  with pytest.raises(UserError, match="holds an evaluation, not a run; choose another"):
    workdir.check_config(tmp_path, config())


def test_an_evaluation_claims_a_new_folder_or_its_own(tmp_path):
  for _ in range(2):
    workdir.claim_evaluation(tmp_path / "new", {"views": 1})
  with pytest.raises(UserError, match=r"another evaluation \(views: 1 there, 2 now\)"):
    workdir.claim_evaluation(tmp_path / "new", {"views": 2})
  with pytest.raises(UserError, match="holds a run; name another folder for its classification"):
    workdir.claim_evaluation(claimed(tmp_path), {"views": 1}, "classification")
  with pytest.raises(UserError, match="is a file; name a folder"):
    workdir.claim_evaluation(tmp_path / "config.json", {"views": 1})


def test_a_workdir_that_cannot_be_created_is_refused(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match=r"--workdir=.*/run cannot be written \(Not a directory\); choose another"):
    workdir.claim(tmp_path / "file" / "run", config(), {})


@pytest.mark.parametrize("name", ["config.json", "corpus.json"])
def test_checkpoints_without_a_record_of_what_they_were_trained_with_are_refused(tmp_path, name):
  workdir.claim(tmp_path, config(), {})
  (tmp_path / "checkpoints" / "4").mkdir(parents=True)
  workdir.check_config(tmp_path, config())
  (tmp_path / name).unlink()
  with pytest.raises(UserError, match=rf"holds checkpoints, but no {name} that .*; restore that file, or"):
    workdir.check_config(tmp_path, config())


def test_other_content_and_another_vocabulary_are_refused_by_name_unless_they_were_not_recorded(tmp_path):
  def corpus(annotations, tokenizer):
    return {"name": "a", "content": {"annotations": annotations}, "mix": {}, "tokenizer": tokenizer}

  workdir.claim(tmp_path / "run", config(), corpus("1", "2"))
  workdir.check_corpus(tmp_path / "run", corpus("1", "2"))
  with pytest.raises(UserError, match=r"another corpus \(content\.annotations: '1' there, '3' now\)"):
    workdir.check_corpus(tmp_path / "run", corpus("3", "2"))
  with pytest.raises(UserError, match=r"another corpus \(tokenizer: '2' there, '3' now\)"):
    workdir.check_corpus(tmp_path / "run", corpus("1", "3"))
  workdir.claim(tmp_path / "earlier", config(), {"name": "a", "mix": {}})
  workdir.check_corpus(tmp_path / "earlier", corpus("1", "2"))
