"""Exit codes and one-line errors of commands."""

import signal
import subprocess
import sys

import pytest

from clipvip_jax.utils import cli
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import log


def raises(error):
  raise error


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (UserError("--steps=0 is too small; use 1 or more"), cli.EXIT_BAD_INPUT, "--steps=0 is too small; use 1 or more"),
    (UserError("a\nb\x1b[2J"), cli.EXIT_BAD_INPUT, r"a\nb\x1b[2J"),
    (FileNotFoundError(2, "No such file or directory", "a.txt"), cli.EXIT_BAD_INPUT, "a.txt: No such file"),
    (OSError("broken"), cli.EXIT_BAD_INPUT, "a file: broken"),
    (KeyboardInterrupt(), cli.EXIT_INTERRUPTED, "interrupted"),
  ],
)
def test_errors_that_a_user_can_fix_take_one_line(capsys, error, code, line):
  with pytest.raises(SystemExit) as stopped:
    cli.exit_on_error(lambda: raises(error))
  output = capsys.readouterr().err
  assert stopped.value.code == code
  assert output.startswith(f"error: {line}") and output.count("\n") == 1 and "\x1b" not in output


def test_a_signal_exits_with_its_code_and_one_line(caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  caplog.set_level("INFO")
  with pytest.raises(SystemExit) as stopped:
    cli.exit_on_error(lambda: raises(Terminated(signal.SIGTERM, "saved step 3")))
  assert stopped.value.code == cli.EXIT_TERMINATED == 143
  assert caplog.messages == ["SIGTERM: saved step 3"]


def test_a_bug_keeps_its_traceback(capsys):
  with pytest.raises(ZeroDivisionError):
    cli.exit_on_error(lambda: 1 / 0)
  assert cli.report_error(ZeroDivisionError("division")) == cli.EXIT_FAILURE
  assert "ZeroDivisionError: division" in capsys.readouterr().err


def test_the_parser_raises_user_errors_and_takes_no_abbreviations():
  parser = cli.Parser("Does it.\n\n  unchanged layout")
  parser.add_argument("--steps", type=int)
  for argv, message in ((["--steps=x"], "invalid int value: 'x'; see --help"), (["--st=1"], "unrecognized.*--st=1")):
    with pytest.raises(UserError, match=message):
      parser.parse_args(argv)
  assert "Does it.\n\n  unchanged layout" in parser.format_help()


def test_restart_codes_are_those_of_signals_and_sysexits():
  assert cli.EXIT_TERMINATED == 128 + signal.SIGTERM and cli.EXIT_INTERRUPTED == 128 + signal.SIGINT
  assert set(cli.RESTART_EXIT_CODES) == {cli.EXIT_HUNG, cli.EXIT_TERMINATED}


def test_launchers_import_no_package():
  modules = "clipvip_jax.utils.cli, clipvip_jax.utils.file_lock, clipvip_jax.utils.local_paths, launch.worker"
  code = f"import {modules}, launch.tpu, launch.slurm, launch.kubernetes"
  done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
