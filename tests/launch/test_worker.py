"""What is sent to the workers of a slice, run here."""

import fcntl
import os
import shlex
import subprocess
import sys

import pytest
from stand_ins import HOSTILE, ROOT, TPU, TRAINING, states

from clipvip_jax.utils.cli import EXIT_TERMINATED
from launch import worker


@pytest.fixture
def home(tmp_path, machine):
  """A worker's home folder, whose Python for a run is a stand-in, and the two commands that it gets over ssh."""
  machine.answer(states("READY"))
  machine.launch("tpu", *TPU, *TRAINING[:-1], f"--workdir={HOSTILE}")
  sent = [call[0][-1].removeprefix("--command=") for call in machine.calls() if "ssh" in call[0]]
  pack = next(call[0] for call in machine.calls() if call[0][0] == "tar")
  home = tmp_path / "home"
  home.mkdir()
  pack[pack.index("-czf") + 1] = str(home / "clipvip_jax.tar.gz")
  subprocess.run(pack, check=True)
  python = home / "clipvip_jax" / "venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(
    f"""#!/bin/sh
case "$2" in
  launch.worker) exec {shlex.quote(sys.executable)} "$@" ;;
  clipvip_jax.main) for arg; do echo "[$arg]"; done; exit 143 ;;
esac
"""
  )
  python.chmod(0o755)
  python3 = home / "bin" / "python3"
  python3.parent.mkdir()
  python3.write_text('#!/bin/sh\necho "$@" >> "$HOME/installed"\n')
  python3.chmod(0o755)
  return home, *sent


def on_worker(home, command):
  env = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
  return subprocess.run(["bash", "-c", command], cwd=home, env=env, capture_output=True, text=True, timeout=60)


def test_a_worker_installs_what_is_pinned_and_runs_what_was_asked_for(home):
  home, install, start = home
  done = on_worker(home, install)
  assert done.returncode == 0, done.stderr
  source = home / "clipvip_jax" / "source"
  assert (source / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes()
  assert (source / "configs" / "post_pretrain.py").exists() and not list(source.rglob("*.pyc"))
  assert "-r source/requirements.lock jax[tpu]" in (home / "installed").read_text()

  done = on_worker(home, start)
  assert done.returncode == EXIT_TERMINATED, done.stderr
  assert done.stdout.splitlines() == [
    f"[{arg}]" for arg in ["-m", "clipvip_jax.main", "--distributed", *TRAINING[1:-1], f"--workdir={HOSTILE}"]
  ]
  assert not list(home.rglob("pwned"))


def test_nothing_is_installed_under_a_run_that_goes_on(home):
  home, install, _ = home
  with (home / "clipvip_jax" / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert on_worker(home, install).returncode == 0
  assert not (home / "installed").exists() and not (home / "clipvip_jax" / "source").exists()


def start_worker(folder, number, command):
  return subprocess.Popen(
    [sys.executable, "-m", "launch.worker", str(folder), str(number), "sh", "-c", command],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_start_is_made_once_and_outlives_its_connection(tmp_path):
  gate = tmp_path / "gate"
  command = f"echo started; while [ ! -e {gate} ]; do sleep 0.05; done; echo ended; exit 7"
  first = start_worker(tmp_path / "run", 1, command)
  assert first.stdout.readline() == "started\n"
  first.kill()  # the connection
  first.communicate()
  back = start_worker(tmp_path / "run", 1, command)
  assert "already running" in back.stdout.readline()
  gate.touch()
  assert back.communicate()[0].splitlines() == ["started", "ended"]
  assert back.returncode == 7
  late = start_worker(tmp_path / "run", 1, command)
  assert late.communicate()[0].count("started") == 1 and late.returncode == 7
  again = start_worker(tmp_path / "run", 2, "echo once more")
  assert again.communicate()[0] == "once more\n" and again.returncode == 0


def test_a_run_whose_machine_went_down_is_one_to_be_started_again(tmp_path):
  first = start_worker(tmp_path / "run", 1, "echo $PPID; kill -9 $PPID $$")  # and so no exit code is noted
  first.communicate()
  assert first.returncode == EXIT_TERMINATED
  assert worker.run(tmp_path / "run", "1", ["false"]) == EXIT_TERMINATED
