"""Studies: which runs there are, in which order, what of them is done already, and what is shown."""

import json

import pytest
from project_paths import ROOT

from clipvip_jax import study
from clipvip_jax.reporting import study_page
from clipvip_jax.training import trainer
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

REPLICATION = str(ROOT / "configs" / "replication.py")


def split(recall):
  metrics = {"R@1": recall, "R@5": 2 * recall, "R@10": 1.0, "median_rank": 2.0, "mean_rank": 3.0}
  plain = {"text_to_video": metrics, "video_to_text": metrics}
  return {"size": 10, "plain": plain, "dsl": plain, "twins": {"accuracy": 0.5, "count": 10}}


@pytest.fixture
def runs(monkeypatch):
  """(arm folder's name, seed, where it starts from) of every run that is made; nothing is trained."""
  made = []

  def run(config, folder):
    made.append((folder.parent.name, config.seed, config.init_from))
    folder.mkdir(parents=True)
    config_tree.write_json(folder / "config.json", config_tree.to_json_dict(config))
    recall = 0.1 * len(made) / 10
    config_tree.write_json(
      folder / "results.json", {"splits": {"test": split(recall)}, "config": config_tree.to_json_dict(config)}
    )
    rows = [{"kind": "eval", "step": step, "split": "validation", "metrics": split(recall)} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  monkeypatch.setattr(trainer, "train", run)
  return made


def test_every_arm_runs_once_a_seed_after_the_arm_that_it_starts_from(tmp_path, runs):
  one = study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("vsc_fc", "mean,single_frame", "from_scratch"))
  study.carry_out(one, 2)
  assert [(arm, seed) for arm, seed, _ in runs] == [
    (arm, seed) for seed in (0, 1) for arm in ("pretrain", "vsc_fc", "mean+single_frame", "from_scratch")
  ]
  starts = {(arm, seed): source for arm, seed, source in runs}
  assert starts["vsc_fc", 1] == str(tmp_path / "pretrain" / "seed_1")
  assert starts["pretrain", 0] == starts["from_scratch", 0] == ""


def test_what_is_finished_is_not_run_again(tmp_path, runs):
  study.carry_out(study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("mean",)), 1)
  assert len(runs) == 2
  study.carry_out(study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("mean", "full")), 2)
  assert [(arm, seed) for arm, seed, _ in runs[2:]] == [("full", 0), ("pretrain", 1), ("full", 1), ("mean", 1)]


def test_runs_of_another_configuration_are_refused_before_any_run(tmp_path, runs):
  study.carry_out(study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("mean",)), 1)
  with pytest.raises(UserError, match=r"another config .*'train.batch_size|another config"):
    study.carry_out(study.open_study(REPLICATION, tmp_path, only=("mean",)), 1)
  assert len(runs) == 2


def test_tables_show_mean_and_deviation_and_leave_out_what_is_not_finished(tmp_path, runs):
  comparison = study.carry_out(study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("mean", "vs")), 3)
  assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(comparison))
  assert list(comparison["groups"].values()) == [{"mean pooling": "mean"}, {"V-S, subtitles only": "vs"}]
  # Runs 2, 5 and 8 of the nine are of "mean": R@1 of 0.02, 0.05 and 0.08.
  text = (tmp_path / "study.md").read_text()
  assert "| mean pooling | 3 | 5.0 ± 3.0 | 10.0 ± 6.0 | 5.0 ± 3.0 | 50.0 ± 0.0 |" in text
  assert text == study_page.markdown(comparison)
  page = (tmp_path / "study.html").read_text()
  assert "5.0 ± 3.0" in page and "<svg" in page and "<script" not in page


def test_one_seed_has_no_deviation(tmp_path, runs):
  comparison = study.carry_out(study.open_study(f"{REPLICATION}:smoke", tmp_path, only=("mean",)), 1)
  assert "| mean pooling | 1 | 2.0 | 4.0 | 2.0 | 50.0 |" in study_page.markdown(comparison)


def test_an_arm_that_starts_from_itself_is_refused(tmp_path):
  recipe = tmp_path / "circle.py"
  recipe.write_text(
    "from configs import common\nSTUDY = {'all': {'one': 'a'}}\n\n\n"
    "def get_config(arg=None):\n  config = common.base()\n  config.init_from = 'arm:a'\n  return config.lock()\n"
  )
  with pytest.raises(UserError, match="'a' starts from itself"):
    study.open_study(str(recipe), tmp_path).plan(1)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=configs/nothing.py"], "there is no file 'configs/nothing.py'"),
    ([f"--config={ROOT}/configs/msrvtt.py"], "has no STUDY"),
    ([f"--config={ROOT}/README.md"], r"unexpected indent \(README.md, line"),
    ([f"--config={REPLICATION}", "--only", "maen"], "no such arm; there are: vsc_fc full"),
    ([f"--config={REPLICATION}:smook"], "unknown variant 'smook'"),
    ([f"--config={REPLICATION}", "--seeds=0"], "at least 1"),
    ([], "--config"),
  ],
)
def test_bad_options_are_one_line(tmp_path, arguments, message):
  with pytest.raises(UserError, match=message) as refused:
    study.main([f"--workdir={tmp_path}", *arguments])
  assert "\n" not in str(refused.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["replication", "data_scale"])
def test_every_study_can_be_planned(tmp_path, recipe):
  one = study.open_study(f"{ROOT}/configs/{recipe}.py:smoke", tmp_path)
  for arm, seed in one.plan(1):
    assert one.config(arm, seed).seed == seed


def test_a_study_of_real_runs(tmp_path):
  one = study.open_study(f"{REPLICATION}:smoke", tmp_path / "study", str(tmp_path / "corpora"), ("vsc_fc",))
  comparison = study.carry_out(one, 1)
  found = comparison["arms"]["vsc_fc"]
  assert found["seeds"] == 1 and set(found["splits"]) == {"test", "test_unseen"}
  assert set(found["curves"]["0"]) == {"1", "2"}
  assert 0 <= found["splits"]["test"]["plain"]["text_to_video"]["R@1"]["mean"] <= 1
  config = json.loads((one.workdir("vsc_fc", 0) / "config.json").read_text())
  assert config["init_from"] == str(one.workdir("pretrain", 0))
