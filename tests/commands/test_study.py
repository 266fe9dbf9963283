"""The study command: flags, exit codes, printed tables."""

import pytest
from project_paths import ROOT

from clipvip_jax import study
from clipvip_jax.reporting import study_page
from clipvip_jax.utils.errors import UserError

REPLICATION = str(ROOT / "configs" / "replication.py")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=configs/nothing.py"], "--config=configs/nothing.py is neither a file nor the name of a recipe"),
    ([f"--config={REPLICATION}", "--only", "maen"], "no such arm; use one of: vsc_fc full"),
    ([f"--config={REPLICATION}:smook"], "unknown variant 'smook'; this recipe has: "),
    ([f"--config={REPLICATION}", "--seeds=0"], "--seeds=0 must be at least 1"),
    ([f"--config={REPLICATION}", "--seed=2"], "unrecognized arguments: --seed=2; see --help"),
    ([], "the following arguments are required: --config; see --help"),
  ],
)
def test_rejects_bad_flags_in_one_line(tmp_path, arguments, message):
  with pytest.raises(UserError) as error:
    study.main([f"--workdir={tmp_path}", *arguments])
  assert message in str(error.value) and "\n" not in str(error.value)
  assert not list(tmp_path.iterdir())


@pytest.fixture
def calls(monkeypatch):
  """(folder, data_dir, arms, number of seeds) of each call of `run_study`, which does nothing."""
  calls = []

  def run_study(loaded, num_seeds):
    calls.append((loaded.folder, loaded.data_dir, loaded.arms(), num_seeds))
    return {"groups": {}, "arms": {}, "warnings": []}

  monkeypatch.setattr(study, "run_study", run_study)
  return calls


def test_passes_flags_on_and_prints_the_tables(tmp_path, calls, capsys):
  flags = ["--seeds=2", "--only", "mean", "vs", "--data_dir=/corpora"]
  study.main([f"--config={REPLICATION}:smoke", f"--workdir={tmp_path}", *flags])
  assert calls == [(tmp_path, "/corpora", ["mean", "vs"], 2)]
  assert capsys.readouterr().out.startswith(study_page.format_markdown({"groups": {}, "arms": {}, "warnings": []}))
