"""Studies: plan of runs, resumption, comparison."""

import json
import shutil

import pytest
from etils import epath
from project_paths import ROOT

from clipvip_jax.reporting import study_page
from clipvip_jax.training import study, trainer
from clipvip_jax.utils import bucket_copies, config_tree
from clipvip_jax.utils.errors import UserError

REPLICATION = str(ROOT / "configs" / "replication.py")


def split_metrics(recall):
  metrics = {"R@1": recall, "R@5": 2 * recall, "R@10": 1.0, "median_rank": 2.0, "mean_rank": 3.0}
  plain = {"text_to_video": metrics, "video_to_text": metrics}
  return {"size": 10, "plain": plain, "dsl": plain, "twins": {"accuracy": 0.5, "count": 10}}


@pytest.fixture
def runs(monkeypatch):
  """(arm folder, seed, init_from) of each run; a stand-in for training writes its files."""
  started = []

  def train(config, remote):
    started.append((remote.parent.name, config.seed, config.init_from))
    with bucket_copies.uploaded_folder(remote, "--workdir", (), "results.json") as workdir:
      write(config, workdir)

  def write(config, workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    config_tree.write_json(workdir / "config.json", config_tree.to_json_dict(config))
    recall = 0.1 * len(started) / 10
    results = {"splits": {"test": split_metrics(recall)}, "config": config_tree.to_json_dict(config)}
    config_tree.write_json(workdir / "results.json", results)
    rows = [{"kind": "eval", "step": step, "split": "validation", "metrics": split_metrics(recall)} for step in (1, 2)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

  monkeypatch.setattr(trainer, "train", train)
  return started


def load(folder, *only, variants="smoke"):
  return study.load_study(f"{REPLICATION}:{variants}".removesuffix(":"), folder, only=only)


def test_runs_each_arm_once_per_seed_after_the_arm_that_initializes_it(tmp_path, runs):
  study.run_study(load(tmp_path, "vsc_fc", "mean,single_frame", "from_scratch"), 2)
  assert [(arm, seed) for arm, seed, _ in runs] == [
    (arm, seed) for seed in (0, 1) for arm in ("pretrain", "vsc_fc", "mean+single_frame", "from_scratch")
  ]
  init_from = {(arm, seed): source for arm, seed, source in runs}
  assert init_from["vsc_fc", 1] == str(tmp_path / "pretrain" / "seed_1")
  assert init_from["pretrain", 0] == init_from["from_scratch", 0] == ""


def test_skips_finished_runs(tmp_path, runs):
  study.run_study(load(tmp_path, "mean"), 1)
  assert len(runs) == 2
  study.run_study(load(tmp_path, "mean", "full"), 2)
  assert [(arm, seed) for arm, seed, _ in runs[2:]] == [("full", 0), ("pretrain", 1), ("full", 1), ("mean", 1)]


def test_a_study_in_a_bucket_has_the_results_of_a_local_one(bucket, tmp_path, runs):
  folder = epath.Path(bucket / "study")
  comparison = study.run_study(load(folder, "mean"), 1)
  assert runs[1] == ("mean", 0, bucket / "study/pretrain/seed_0")
  runs.clear()
  assert study.run_study(load(tmp_path, "mean"), 1) == comparison and len(runs) == 2
  for name in ("study.json", "study.md", "study.html"):
    assert bucket.read(f"study/{name}") == (tmp_path / name).read_bytes()
  assert study.run_study(load(folder, "mean"), 1) == comparison and len(runs) == 2, "its runs are finished"
  with pytest.raises(UserError, match=rf"^{bucket.url}/study/pretrain/seed_0 holds .*train\.batch_size"):
    study.run_study(load(folder, "mean", variants=""), 1)


def test_rejects_workdirs_of_another_configuration_before_any_run(tmp_path, runs):
  study.run_study(load(tmp_path, "mean"), 1)
  with pytest.raises(UserError, match=r"pretrain/seed_0 holds .*train\.batch_size: 16 .*64 .*--workdir"):
    study.run_study(load(tmp_path, "mean", variants=""), 1)
  assert len(runs) == 2


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("config.model.attention = 'cudnn'", r"model\.attention=cudnn needs .* on cpu; use model\.attention=auto"),
    ("config.train.batch_size = 250", r"train\.batch_size=250 is not divisible by"),
    ("config.init_from = 'missing.safetensors'", r"'missing\.safetensors': no such file"),
    ("config.host.profile_steps = '9-1'", r"host\.profile_steps='9-1' is not a range of steps"),
  ],
)
def test_an_arm_that_its_run_would_refuse_is_refused_before_any_run(tmp_path, runs, change, message):
  (tmp_path / "recipe.py").write_text(
    "from clipvip_jax.configs import post_pretrain\n"
    "STUDY = {'t': {'good': 'smoke', 'bad': 'smoke,bad'}}\n"
    "def get_config(arg=None):\n"
    "  config = post_pretrain.get_config(arg.replace(',bad', ''))\n"
    f"  with config.unlocked():\n    if 'bad' in arg: {change}\n"
    "  return config\n"
  )
  with pytest.raises(UserError, match=rf"arm 'smoke,bad': {message}") as refused:
    study.run_study(study.load_study(str(tmp_path / "recipe.py"), tmp_path / "study"), 2)
  assert not runs and "\n" not in str(refused.value)


def test_an_unfinished_run_has_no_results(tmp_path, runs):
  arms = load(tmp_path, "mean")
  study.run_study(arms, 1)
  (arms.workdir("mean", 0) / "results.json").unlink()
  assert study.read_finished_run(arms, "mean", 0) is None
  assert study.read_finished_run(arms, "pretrain", 0).splits == {"test": split_metrics(0.01)}


@pytest.mark.parametrize("name", ["", "pretrain", "pretrain/seed_0/results.json"])
def test_a_finished_run_that_is_deleted_meanwhile_ends_the_study_with_an_error(tmp_path, runs, monkeypatch, name):
  train = trainer.train

  def train_and_delete(config, workdir):
    if workdir.parent.name == "mean":
      path = tmp_path / "study" / name
      path.unlink() if path.is_file() else shutil.rmtree(path)
    train(config, workdir)

  monkeypatch.setattr(trainer, "train", train_and_delete)
  arms = load(tmp_path / "study", "mean")
  with pytest.raises(UserError, match="pretrain/seed_0 is no longer finished: another program deleted"):
    study.run_study(arms, 1)
  monkeypatch.setattr(trainer, "train", train)
  assert study.run_study(arms, 1)["arms"].keys() == {"mean"}
  assert [arm for arm, _, _ in runs] == ["pretrain", "mean", "pretrain"]


@pytest.mark.parametrize("duration", ["num_steps", "epochs"])
def test_a_run_that_was_extended_since_is_not_finished(tmp_path, runs, duration):
  arms = load(tmp_path, "mean")
  study.run_study(arms, 1)
  path = arms.workdir("mean", 0) / "results.json"
  results = json.loads(path.read_text())
  results["config"]["train"][duration] -= 1
  config_tree.write_json(path, results)
  study.run_study(arms, 1)
  assert [arm for arm, _, _ in runs] == ["pretrain", "mean", "mean"] and study.read_finished_run(arms, "mean", 0)


def test_runs_on_different_builds_of_a_corpus_are_named(tmp_path, runs, caplog):
  arms = load(tmp_path, "mean", "vs")
  study.run_study(arms, 1)
  first, other = arms.workdir("mean", 0), arms.workdir("vs", 0)
  named = [f"{first} and {other} are not comparable: shapes was built anew between them"]
  cases = ({}, []), ({"annotations": "b"}, named), ({"settings": {"frames": 4}}, named), ({"name": "edition"}, [])
  for changes, messages in cases:  # editions of a corpus are compared on purpose
    for folder, corpus in ((first, {}), (other, changes)):
      evaluated = {"name": "shapes", "annotations": "a", "settings": {"frames": 8}, **corpus}
      results = json.loads((folder / "results.json").read_text())
      config_tree.write_json(folder / "results.json", {**results, "evaluated": evaluated})
    caplog.clear()
    study.write_comparison(arms, 1)
    assert caplog.messages == messages
    for page in (arms.folder / "study.md", arms.folder / "study.html"):
      assert page.read_text().count("are not comparable") == len(messages)


def test_tables_show_mean_and_standard_deviation_of_finished_arms(tmp_path, runs):
  comparison = study.run_study(load(tmp_path, "mean", "vs"), 3)
  assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(comparison))
  assert list(comparison["groups"].values()) == [{"mean pooling": "mean"}, {"V-S, subtitles only": "vs"}]
  # Runs 2, 5 and 8 of the nine are of "mean": R@1 of 0.02, 0.05 and 0.08.
  text = (tmp_path / "study.md").read_text()
  assert "| mean pooling | 3 | 5.0 ± 3.0 | 10.0 ± 6.0 | 5.0 ± 3.0 | 50.0 ± 0.0 |" in text
  assert text == study_page.format_markdown(comparison)
  page = (tmp_path / "study.html").read_text()
  assert "5.0 ± 3.0" in page and "<svg" in page and "<script" not in page


def test_one_seed_has_no_deviation(tmp_path, runs):
  comparison = study.run_study(load(tmp_path, "mean"), 1)
  assert "| mean pooling | 1 | 2.0 | 4.0 | 2.0 | 50.0 |" in study_page.format_markdown(comparison)


def test_rejects_an_arm_that_initializes_itself(tmp_path):
  recipe = tmp_path / "circle.py"
  recipe.write_text(
    "from configs import common\nSTUDY = {'all': {'one': 'a'}}\n\n\n"
    "def get_config(arg=None):\n  config = common.base()\n  config.init_from = 'arm:a'\n  return config.lock()\n"
  )
  with pytest.raises(UserError, match=r"arm 'a' initializes itself \(a <- a\); change init_from"):
    study.load_study(str(recipe), tmp_path).plan(1)


@pytest.mark.parametrize(
  ("recipe", "only", "message"),
  [
    ("configs/nothing.py", (), r"^--config=configs/nothing\.py is neither a file nor the name of a recipe"),
    (f"{ROOT}/configs/msrvtt.py", (), r"the recipe has no STUDY \(the arms to compare\); replication has one"),
    (f"{ROOT}/README.md", (), r"\(README\.md, line \d+\)"),
    (REPLICATION, ("maen",), "--only=maen: the recipe has no such arm; use one of: vsc_fc full"),
  ],
)
def test_rejects_recipes_and_arms_that_do_not_exist(tmp_path, recipe, only, message):
  with pytest.raises(UserError, match=message):
    study.load_study(recipe, tmp_path, only=only)


def test_rejects_variants_that_the_recipe_does_not_have(tmp_path):
  with pytest.raises(UserError, match=r"arm 'pretrain': unknown variant 'smook'; this recipe has: .*smoke"):
    load(tmp_path, variants="smook").config("pretrain", 0)


@pytest.mark.parametrize(
  "recipe",
  [
    *(f"{name}.py:smoke" for name in ("replication", "generated_captions", "data_scale")),
    "data_scale.py:demo",
    "data_scale.py:b16",
  ],
)
def test_plans_every_study(tmp_path, recipe):
  arms = study.load_study(f"{ROOT}/configs/{recipe}", tmp_path)
  plan = arms.plan(2)
  assert len(plan) == len(set(plan)) and {arm for arm, _ in plan} >= set(arms.arms())
  for arm, seed in plan:
    initial_arm = arms.initial_arm(arm)
    assert arms.config(arm, seed).seed == seed
    assert not initial_arm or plan.index((initial_arm, seed)) < plan.index((arm, seed))


@pytest.mark.slow
@pytest.mark.unoptimized
def test_trains_and_compares_real_runs(tmp_path):
  arms = study.load_study(f"{REPLICATION}:smoke", tmp_path / "study", str(tmp_path / "corpora"), ("vsc_fc",))
  comparison = study.run_study(arms, 1)
  arm, results = comparison["arms"]["vsc_fc"], study.read_finished_run(arms, "vsc_fc", 0)
  assert arm["seeds"] == 1 and set(arm["splits"]) == {"test", "test_unseen"}
  assert set(arm["curves"]["0"]) == {"1", "2"}
  recall = results.splits["test"]["plain"]["text_to_video"]["R@1"]
  assert arm["splits"]["test"]["plain"]["text_to_video"]["R@1"] == {"mean": recall, "sd": None}
  config = json.loads((arms.workdir("vsc_fc", 0) / "config.json").read_text())
  assert config["init_from"] == str(arms.workdir("pretrain", 0))
