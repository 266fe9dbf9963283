"""The console command: list of commands, version, errors, and that it runs them."""

import os
import pathlib
import subprocess
import sys

import pytest
from project_paths import ROOT

import clipvip_jax
from clipvip_jax import __main__ as dispatch

COMMANDS = sorted(path.stem for path in (ROOT / "clipvip_jax").glob("[a-z]*.py"))


def test_help_lists_every_command_with_one_line(capsys):
  dispatch.main(["--help"])
  printed = capsys.readouterr().out.splitlines()
  listed = [line.split(maxsplit=1) for line in printed if line.startswith("  ")]
  assert [name for name, _ in listed] == COMMANDS
  assert all(summary.endswith(".") for _, summary in listed)


def test_version_is_that_of_the_package(capsys):
  dispatch.main(["--version"])
  assert capsys.readouterr().out == f"clipvip_jax {clipvip_jax.__version__}\n"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], f"error: the command is missing; use one of: {', '.join(COMMANDS)}, or --help"),
    (["serach", "a dog"], f"error: 'serach' is not a command of clipvip; use one of: {', '.join(COMMANDS)}"),
    (["utils"], "error: 'utils' is not a command"),
    (["__main__"], "error: '__main__' is not a command"),
    (["--verbose"], "error: '--verbose' is not a command"),
  ],
)
def test_an_unknown_command_is_reported_in_one_line(capsys, argv, message):
  with pytest.raises(SystemExit) as stop:
    dispatch.main(argv)
  assert stop.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(message)


def test_a_command_gets_its_arguments_and_sets_the_exit_code():
  query = [sys.executable, "-m", "clipvip_jax", "search", "--index=none.safetensors", "--top=0", "a dog"]
  done = subprocess.run(query, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stderr) == (2, "error: --top=0 must be at least 1\n")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_an_output_that_cannot_be_written_takes_one_line(option):
  with pathlib.Path("/dev/full").open("w") as full:
    command = [sys.executable, "-m", "clipvip_jax", option]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2 and line.startswith("error: standard output: No space left on device; check space")
