"""Tests of the commands that the TPU launcher sends to workers, executed locally."""

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
  """Returns a worker's home folder with a fake Python, and the two commands that the launcher sends over ssh."""
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


def test_installs_pinned_packages_and_runs_the_training_command(home):
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


def test_installs_nothing_while_a_run_is_alive(home):
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


def test_start_is_idempotent_and_survives_its_connection(tmp_path):
  gate = tmp_path / "gate"
  command = f"echo started; while [ ! -e {gate} ]; do sleep 0.05; done; echo ended; exit 7"
  first = start_worker(tmp_path / "run", 1, command)
  assert first.stdout.readline() == "started\n"
  first.kill()  # as a broken connection does
  first.communicate()
  attached = start_worker(tmp_path / "run", 1, command)
  assert "already running here, with the options of its start; attaching to it" in attached.stdout.readline()
  gate.touch()
  assert attached.communicate()[0].splitlines() == ["started", "ended"]
  assert attached.returncode == 7
  repeated = start_worker(tmp_path / "run", 1, command)
  assert repeated.communicate()[0].count("started") == 1 and repeated.returncode == 7
  restarted = start_worker(tmp_path / "run", 2, "echo once more")
  assert restarted.communicate()[0] == "once more\n" and restarted.returncode == 0


def test_killed_run_without_exit_code_counts_as_terminated(tmp_path):
  first = start_worker(tmp_path / "run", 1, "echo $PPID; kill -9 $PPID $$")  # so no exit code is recorded
  first.communicate()
  assert first.returncode == EXIT_TERMINATED
  assert worker.run(tmp_path / "run", "1", ["false"]) == EXIT_TERMINATED
