"""Exit codes and one-line errors of commands."""

import errno
import os
import pathlib
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


def test_home_is_expanded_in_arguments_and_values_of_options(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  args = ["--workdir=~/run", "--config.data.data_dir=~", "~/a", "--top=3", "a=~/b", "~nobody-here", "--a b=~/c"]
  expanded = ["--workdir=/home/me/run", "--config.data.data_dir=/home/me", "/home/me/a", *args[3:]]
  assert cli.expand_home(args) == expanded
  parser = cli.Parser("Does it.")
  parser.add_argument("--out")
  assert parser.parse_args(["--out=~/x"]).out == "/home/me/x"


def caused(error, cause):
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (OSError(errno.EMFILE, "Too many open files", "a"), "Too many open files: 'a'; raise the limit with ulimit -n"),
    (ValueError("Error opening x [os_error_code='24' Too many open files]"), "raise the limit with ulimit -n, or use"),
    (caused(RuntimeError("worker"), OSError(errno.ENFILE, "Too many open files in system")), "raise the limit with"),
    (
      FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
      "['/tmp']; free space in one of them, or",
    ),
    (UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed"), "is not valid UTF-8 in this locale; set"),
  ],
)
def test_conditions_of_the_machine_take_one_line_with_a_remedy(capsys, monkeypatch, error, line):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  with pytest.raises(SystemExit) as stopped:
    cli.exit_on_error(lambda: raises(error))
  output = capsys.readouterr().err
  assert stopped.value.code == cli.EXIT_BAD_INPUT
  assert output.startswith("error: ") and line in output and output.count("\n") == 1


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_jax_does_not_have_takes_one_line(platform):
  code = "import jax\nfrom clipvip_jax.utils import cli\ncli.run_command(jax.process_index)"
  environment = {**os.environ, "JAX_PLATFORMS": platform}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
  assert done.returncode == cli.EXIT_BAD_INPUT, done.stderr
  line = done.stderr.splitlines()[-1]
  assert line.startswith(f"error: JAX cannot use JAX_PLATFORMS={platform} (") and "; unset it, or install" in line
  assert "Traceback" not in done.stderr


PIPED = """
import sys
from clipvip_jax.utils import cli
from clipvip_jax.utils.log import log

def main():
  for _ in range(3):
    log.info("step")
  if sys.argv[1] == "prints":
    for _ in range(10_000):
      print("result")
  print("finished", file=sys.stderr)

cli.run_command(main)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("mode", "reads"), [("logs", 0), ("prints", 3)])
def test_a_reader_that_ends_early_causes_no_traceback(mode, reads, unbuffered):
  reader, writer = os.pipe()
  if not reads:
    os.close(reader)
  with subprocess.Popen(
    [sys.executable, "-c", PIPED, mode],
    stdout=writer,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
  ) as process:
    os.close(writer)
    if reads:
      with open(reader) as lines:  # noqa: PTH123
        for _ in range(reads):  # all that is logged, so that the reader ends at a print
          assert "step" in lines.readline()
    errors = process.stderr.read()
    code = process.wait(timeout=30)
  if mode == "logs":  # as a run, which continues
    assert (code, errors) == (0, "standard output was closed; continuing without it\nfinished\n")
  else:
    assert (code, errors) == (cli.EXIT_BROKEN_PIPE, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("mode", "code"), [("logs", 0), ("prints", cli.EXIT_BAD_INPUT), ("fails", 3)])
def test_an_output_on_a_full_disk_takes_one_line_and_a_failure_keeps_its_code(mode, code, unbuffered):
  script = PIPED.replace('print("finished", file=sys.stderr)', 'sys.exit(3 if sys.argv[1] == "fails" else 0)')
  results = []
  for same in (False, True):
    with pathlib.Path("/dev/full").open("w") as full:
      environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
      stderr = full if same else subprocess.PIPE
      command = [sys.executable, "-c", script, mode]
      results.append(subprocess.run(command, stdout=full, stderr=stderr, text=True, env=environment, timeout=30))
  if mode == "logs" and not unbuffered:
    code = cli.EXIT_BAD_INPUT  # lines of the log are what is lost
  assert [done.returncode for done in results] == [code, code]
  first, *lines = results[0].stderr.splitlines()
  assert first == "standard output: No space left on device; continuing, but lines of the log are lost"
  assert len(lines) == (code == cli.EXIT_BAD_INPUT)
  assert all(line.startswith("error: ") and "standard output: No space left on device" in line for line in lines)


CLOSED = """
import os, pathlib, sys
from clipvip_jax.utils import cli
from clipvip_jax.utils.errors import UserError

def main():
  with pathlib.Path(sys.argv[1]).open("w") as file:
    print("result")
    for number in (1, 2):
      os.write(number, b"of a library")
    file.write("output")
  if sys.argv[2:]:
    raise UserError("bad input")

cli.run_command(main)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
@pytest.mark.parametrize("code", [0, 2])
def test_closed_streams_are_not_those_of_files_and_change_no_exit_code(tmp_path, closed, code):
  script = f'exec "$@" {closed}'
  command = ["sh", "-c", script, "sh", sys.executable, "-c", CLOSED, tmp_path / "file", *["bad"] * (code > 0)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=30)
  errors = "" if "2>" in closed else "of a library" + "error: bad input\n" * (code > 0)
  assert (done.returncode, done.stderr) == (code, errors)
  assert (tmp_path / "file").read_text() == "output"


@pytest.mark.parametrize(
  ("error", "shown"),
  [
    (OSError(errno.ENOSPC, "No space left on device"), "a file, or standard output: No space left on device; check"),
    (OSError(errno.EROFS, "Read-only file system", "a.json"), "a.json: Read-only file system; check space, quota and"),
    (caused(RuntimeError("save failed"), OSError(errno.EDQUOT, "x")), "Disk quota exceeded; check space, quota and"),
  ],
)
def test_a_disk_that_refuses_a_write_takes_one_line_with_a_remedy(capsys, error, shown):
  with pytest.raises(SystemExit) as stopped:
    cli.exit_on_error(lambda: raises(error))
  output = capsys.readouterr().err
  assert stopped.value.code == cli.EXIT_BAD_INPUT and shown in output and output.count("\n") == 1


def test_file_names_that_the_locale_cannot_encode_are_printed_escaped():
  code = "from clipvip_jax.utils import cli, log; cli.run_command(lambda: log.log.info('caf\\xe9') or print('\\u2014'))"
  environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=30)
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert done.stdout.splitlines()[0].endswith("caf\\xe9") and done.stdout.splitlines()[1] == "\\u2014"


def test_restart_codes_are_those_of_signals_and_sysexits():
  assert cli.EXIT_TERMINATED == 128 + signal.SIGTERM and cli.EXIT_INTERRUPTED == 128 + signal.SIGINT
  assert set(cli.RESTART_EXIT_CODES) == {cli.EXIT_HUNG, cli.EXIT_TERMINATED}


def test_launchers_import_no_package():
  modules = "clipvip_jax.utils.cli, clipvip_jax.utils.file_lock, clipvip_jax.utils.local_paths, launch.worker"
  code = f"import {modules}, launch.tpu, launch.slurm, launch.kubernetes"
  done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
