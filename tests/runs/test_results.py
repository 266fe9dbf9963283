"""Results read back from a workdir."""

import json

import pytest

from clipvip_jax.runs.results import read_results
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

RESULTS = {
  "splits": {"test": {"size": 2}},
  "config": {"train": {"batch_size": 8}},
  "corpus": {"name": "training"},
  "evaluated": {"name": "msrvtt", "settings": {"frames": 12}, "path": "/a"},
}


def write(folder, results, history=None):
  (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
  if history is not None:
    (folder / "metrics.jsonl").write_text(history)
  return folder


def test_reads_splits_config_corpus_and_history(tmp_path):
  run = read_results(write(tmp_path, RESULTS, '{"kind": "train", "step": 1, "loss": 2.0}\n'))
  assert run.splits == {"test": {"size": 2}} and run.config == {"train.batch_size": 8}
  assert run.corpus == {"name": "msrvtt", "settings.frames": 12}, "the evaluated corpus, without its path"
  assert [row["loss"] for row in run.history] == [2.0]


def test_a_workdir_without_metrics_has_an_empty_history(tmp_path):
  assert not read_results(write(tmp_path, RESULTS)).history


@pytest.mark.parametrize(
  ("results", "message"),
  [
    ("{", r"results\.json cannot be read .*repeat the command"),
    ([], "is not a results file of this project: 'splits' is missing; pass a workdir"),
    ({"splits": {"test": {}}}, "split 'test' has no 'size'"),
    ({**RESULTS, "versions": [1]}, "'versions' is not an object"),
    ({"zero_shot": {}, "videos": 2}, r"results\.json is of a classification, not of retrieval; name a run or an eval"),
    ({"spread": {}}, "holds several models: name one of them, as .*model_0"),
  ],
)
def test_invalid_results_are_refused(tmp_path, results, message):
  with pytest.raises(UserError, match=message):
    read_results(write(tmp_path, results))


def test_a_folder_without_results_is_refused_with_what_to_run(tmp_path):
  with pytest.raises(UserError, match=r"holds no results\.json: finish its run .* python -m clipvip_jax\.evaluate"):
    read_results(tmp_path)


@pytest.mark.parametrize("row", ["[]", '{"kind": "train"}', '{"kind": "train", "step": "1"}', '{"step": 1}'])
def test_an_invalid_row_of_the_history_is_skipped_with_a_warning(tmp_path, caplog, monkeypatch, row):
  monkeypatch.setattr(log, "propagate", True)
  good = '{"kind": "train", "step": 1, "loss": 2.0}'
  assert len(read_results(write(tmp_path, RESULTS, f"{row}\n{good}\n")).history) == 1
  assert "metrics.jsonl: 1 corrupt lines (1) are skipped" in caplog.text
