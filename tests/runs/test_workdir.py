"""Whose folder it is, and the history of a run."""

import json

import pytest

from clipvip_jax.runs import metrics_history, workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from configs import post_pretrain


def config(**changes):
  value = post_pretrain.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict(changes)
  return config_tree.to_json_dict(value)


def claimed(folder):
  config_tree.write_json(folder / "config.json", config())
  return folder


def test_the_same_config_may_go_on(tmp_path):
  workdir.check_config(claimed(tmp_path), config())
  workdir.check_config(tmp_path / "new", config())


def test_what_cannot_change_a_result_may_change(tmp_path):
  changes = {
    "host.num_workers": 3,
    "host.log_every": 1,
    "data.data_dir": "/elsewhere",
    "data.prepare": False,
  }
  workdir.check_config(claimed(tmp_path), config(**changes))


def test_folders_of_mixed_sources_may_change(tmp_path):
  def mixed(**fields):
    return {**config(), "mix": {"images": {"data_dir": "", "weight": 1.0, **fields}}}

  workdir.claim(tmp_path, mixed(), {})
  workdir.check_config(tmp_path, mixed(data_dir="/elsewhere"))
  with pytest.raises(UserError, match=r"mix\.images\.weight"):
    workdir.check_config(tmp_path, mixed(weight=2.0))


def test_another_config_is_refused_with_both_values(tmp_path):
  with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.002 there, 0\.1 now.*--workdir"):
    workdir.check_config(claimed(tmp_path), config(**{"optimizer.learning_rate": 0.1}))


def test_another_corpus_is_refused(tmp_path):
  corpus = {"name": "shapes/1.0.0", "settings": {"seed": 0}, "records": {"train": 10}}
  workdir.claim(tmp_path / "run", config(), corpus)
  workdir.check_corpus(tmp_path / "run", corpus)
  with pytest.raises(UserError, match=r"another corpus \(records\.train: 10 there, 11 now\)"):
    workdir.check_corpus(tmp_path / "run", {**corpus, "records": {"train": 11}})


def test_a_file_in_place_of_the_folder_and_an_unreadable_config_are_refused(tmp_path):
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="is a file"):
    workdir.check_config(tmp_path / "file", config())
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(UserError, match=r"config\.json cannot be read"):
    workdir.check_config(tmp_path, config())


def test_history_drops_what_will_be_done_again_and_a_cut_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  history = metrics_history.History(path, 0)
  for step in (1, 2, 3):
    history.append({"kind": "train", "step": step, "loss": 1.0 / step})
  history.close()
  with path.open("a") as file:
    file.write('{"kind": "tr')
  assert [row["step"] for row in metrics_history.History(path, 2).rows] == [1, 2]
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
