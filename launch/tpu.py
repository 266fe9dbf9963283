"""Trains on a slice of TPU VMs and stays with the run: restarts it, and asks for a new slice after a preemption.

  python -m launch.tpu --name=vip --zone=us-east5-b --accelerator=v6e-32 --spot \\
    --prepare='mountpoint -q /shared || sudo mount -t nfs 10.0.0.2:/share /shared' \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora
  python -m launch.tpu --name=vip --zone=us-east5-b --delete

The slice is asked for as a queued resource of that name. Its workers get the project, the packages of requirements.lock
and JAX for TPU, and each starts clipvip_jax.main, whose processes find each other by themselves. A broken connection or
Ctrl-C leaves the run alone; the same command goes back to it. Exit code: the run's.
"""

import argparse
import re
import shlex
import sys
import time
from collections.abc import Sequence

from clipvip_jax.utils.cli import RESTART_EXIT_CODES, exit_on_error
from clipvip_jax.utils.errors import UserError
from launch import common

# What follows "GENERATION-": TensorCores for v4 and v5p (two a chip), else chips. Then its machines' runtime version.
_FLAT = (1, 4, 8, 16, 32, 64, 128, 256)
_GENERATIONS = {
  "v4": ((8, 16, 32, 64, *range(128, 4097, 128)), "tpu-ubuntu2204-base"),
  "v5litepod": (_FLAT, "v2-alpha-tpuv5-lite"),
  "v5p": ((8, 16, 32, 64, *range(128, 12289, 128)), "v2-alpha-tpuv5"),
  "v6e": (_FLAT, "v2-alpha-tpuv6e"),
}
# Of the project, what a run needs.
_TRAVELS = ("clipvip_jax", "configs", "data", "launch", "requirements.lock")
_ABSENT, _ACTIVE, _READY = "ABSENT", "ACTIVE", "READY"
# States of a queued resource, and of its machines, that they never leave by themselves.
_ENDED = ("FAILED", "SUSPENDED", "PREEMPTED", "TERMINATED", "STOPPED")
_LOST = 255  # ssh's exit code where there is no connection
_PATIENCE = 120  # looks at a state, or connections, that may fail in a row, as while a laptop sleeps
_SHORT = 60.0  # seconds of a connection that did not hold


def accelerator(text: str) -> str:
  """A type of slice, as in v6e-32; else argparse says which there are."""
  generation, _, size = text.partition("-")
  if generation not in _GENERATIONS:
    raise argparse.ArgumentTypeError(f"{text!r} is none; there are {', '.join(f'{name}-N' for name in _GENERATIONS)}")
  sizes = _GENERATIONS[generation][0]
  if size not in map(str, sizes):
    shown = ", ".join(map(str, sizes[:8])) + (f", then multiples of 128 up to {sizes[-1]}" if len(sizes) > 8 else "")
    raise argparse.ArgumentTypeError(f"{text!r} is none; {generation}-N has an N of {shown}")
  return text


def zone(text: str) -> str:
  """A zone's name, as in us-east5-b."""
  if not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", text):
    raise argparse.ArgumentTypeError(f"{text!r} is no zone, as in us-east5-b")
  return text


class Slice:
  """A queued resource and its TPU VMs."""

  def __init__(self, shell: common.Shell, options: argparse.Namespace):
    self._shell, self._options, self.state = shell, options, _ABSENT
    self._patience = 0  # looks at the state that may fail: none before one has succeeded
    self._place = [f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else [])]

  def obtain(self) -> None:
    """Waits until the slice can be used; asks for it where it does not exist, or was taken away.

    Raises:
      UserError: the request was refused.
    """
    asked, before = False, ""
    while not self.ready(assumed=_ACTIVE if asked else _ABSENT):
      state = self.state
      if state != before:
        self._shell.say(f"{self._options.name} is {state}")
      before = state
      if state == "FAILED" and asked:
        raise UserError(f"the request for {self._options.name} failed; see: {shlex.join(self._queued('describe'))}")
      if state == _ABSENT:
        self._create()
        asked = True
      elif state in _ENDED:
        self.delete()
      else:
        time.sleep(self._options.poll_seconds)

  def ready(self, *, assumed: str = _ACTIVE) -> bool:
    """Whether the workers can be used; `state` is then READY, else says why not. `assumed`: that of a dry run."""
    self.state = self._ask(self._queued("describe", "--format=value(state.state)"), assumed)
    if self.state == _ACTIVE:  # which it stays for a while after its machines were taken away
      machines = self._ask(self._vms("describe", self._options.name, "--format=value(state)"), _READY)
      self.state = "SUSPENDED" if machines == _ABSENT else machines
    return self.state == _READY

  def install(self) -> int:
    """Brings project and packages to every worker where no run is going on; gives 0, or what failed as exit code."""
    archive = common.ROOT / "build" / "launch" / "clipvip_jax.tar.gz"
    self._shell.must(["mkdir", "-p", str(archive.parent)])
    self._shell.must(["tar", "--exclude=__pycache__", "-czf", str(archive), "-C", str(common.ROOT), *_TRAVELS])
    copy = self._vms("scp", str(archive), f"{self._options.name}:", "--worker=all", "--quiet")
    script = "\n".join(["set -e", *_install_commands(), *self._options.prepare])
    # A run holds the lock, see worker.py. Closed for the commands, since a mounted folder's daemon would keep it.
    locked = ["flock", "--close", "--nonblock", "--conflict-exit-code=0", "clipvip_jax/lock", "bash", "-c", script]
    install = self._ssh(f"mkdir -p clipvip_jax && {shlex.join(locked)}")
    return self._shell.run(copy) or self._shell.run(install)

  def start(self, number: int, tail: Sequence[str]) -> int:
    """Starts the run on every worker, or goes back to it, and gives its exit code. See worker.py for `number`."""
    python = "../venv/bin/python"
    main = [python, "-m", "clipvip_jax.main", "--distributed", *tail]
    command = ["env", *(f"{name}={content}" for name, content in self._options.env)]
    command += [python, "-m", "launch.worker", "..", str(number), *main]
    return self._shell.run(self._ssh(f"cd clipvip_jax/source && exec {shlex.join(command)}"))

  def delete(self) -> None:
    """Gives the slice back, with whatever runs there."""
    self._shell.must(self._queued("delete", "--force", "--quiet"))

  def delete_command(self) -> str:
    """What a person types for that."""
    return f"python -m launch.tpu --name={self._options.name} {shlex.join(self._place)} --delete"

  def _create(self) -> None:
    options = self._options
    runtime = options.runtime_version or _GENERATIONS[options.accelerator.partition("-")[0]][1]
    command = self._queued(
      "create", f"--node-id={options.name}", f"--accelerator-type={options.accelerator}", f"--runtime-version={runtime}"
    )
    self._shell.must([*command, *(["--spot"] if options.spot else []), *options.extra, "--quiet"])

  def _ask(self, command: Sequence[str], assumed: str) -> str:
    while True:
      code, state, errors = self._shell.ask(command, assumed=assumed)
      if code == 0 or "NOT_FOUND" in errors:
        self._patience = _PATIENCE
        return _ABSENT if code else state
      if not self._patience:
        raise UserError(f"gcloud cannot tell the state of {self._options.name}: {errors or f'exit code {code}'}")
      self._patience -= 1
      time.sleep(self._options.poll_seconds)

  def _queued(self, verb: str, *flags: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb, self._options.name, *self._place, *flags]

  def _vms(self, verb: str, *arguments: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "tpu-vm", verb, *arguments, *self._place]

  def _ssh(self, command: str) -> list[str]:
    # Asked for a sign of life, ssh notices that a machine was taken away.
    alive = "--ssh-flag=-oServerAliveInterval=30"
    return [*self._vms("ssh", self._options.name, "--worker=all", alive, "--quiet"), f"--command={command}"]


def _install_commands() -> list[str]:
  """In the home folder of a worker. Its own Python is too old, so uv brings one."""
  return [
    "cd clipvip_jax",
    "rm -rf source number log exit",
    "mkdir source",
    "tar -xzf ../clipvip_jax.tar.gz -C source",
    "python3 -m pip install --quiet --user uv",
    "test -x venv/bin/python || python3 -m uv venv --quiet --python 3.11 venv",
    "python3 -m uv pip install --quiet --python venv/bin/python -r source/requirements.lock 'jax[tpu]'",
  ]


def supervise(tpu: Slice, tail: Sequence[str], max_restarts: int, pause: float) -> int:
  """Brings a run to its end over restarts and preemptions, and gives its exit code, the last where they are used up.

  Args:
    tpu: where it runs.
    tail: options of the run.
    max_restarts: after preemptions and exit codes that ask for one; going back to a run that goes on is none.
    pause: seconds before that.

  Raises:
    UserError: the slice cannot be had or reached.
  """
  number, lost = 1, 0
  installed = False
  while True:
    if not installed:
      tpu.obtain()
    began = time.monotonic()
    what, code = "installing", 0 if installed else tpu.install()
    if code == 0:
      what, code, installed = "the run", tpu.start(number, tail), True
      if code == 0:
        return 0
    lost = 0 if time.monotonic() - began > _SHORT else lost
    if not tpu.ready():
      print(f"exit code {code}: the slice was taken away ({tpu.state}); asking for it again", flush=True)
      number, installed = number + 1, False
    elif code == _LOST and lost < _PATIENCE:  # the start goes on, and is gone back to
      print("the connection was lost; going back", flush=True)
      lost += 1
      time.sleep(pause)
    elif code == _LOST:
      raise UserError(f"no connection in {_PATIENCE} attempts; the run may go on, and the same command goes back to it")
    elif code in RESTART_EXIT_CODES:
      print(f"exit code {code}: saved and ended from outside, or stuck; starting again", flush=True)
      number += 1
    else:
      print(f"error: {what} failed with exit code {code}; what it said stands above", file=sys.stderr)
      return code
    if number > max_restarts + 1:
      print(f"error: --max_restarts={max_restarts} restarts are used up; the same command goes on", file=sys.stderr)
      return code


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = common.parser(__doc__)
  parser.add_argument("--zone", required=True, type=zone, help="as in us-east5-b")
  parser.add_argument("--project", default="", help="default: gcloud's own")
  parser.add_argument("--accelerator", type=accelerator, help="as in v6e-32")
  parser.add_argument("--runtime_version", default="", help="default: the one for that accelerator")
  parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any moment")
  parser.add_argument("--extra", action="append", default=[], metavar="--FLAG=VALUE", help="of queued-resources create")
  parser.add_argument(
    "--prepare", action="append", default=[], metavar="COMMAND", help="of bash, on every worker: mounts folders"
  )
  parser.add_argument("--poll_seconds", type=float, default=30.0, help="between two looks at the request")
  parser.add_argument("--delete", action="store_true", help="give the slice back, and nothing else")
  parser.add_argument("--delete_after", action="store_true", help="give the slice back when the run has ended")
  options, tail = common.parse(parser, argv)
  if not options.delete:
    if not options.accelerator:
      raise UserError(f"--accelerator is missing; there are {', '.join(f'{name}-N' for name in _GENERATIONS)}")
    common.check_training(tail, elsewhere=True)
  return options, tail


def main() -> None:
  """Reads options, then stays with the run."""
  options, tail = _options(sys.argv[1:])
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("gcloud", "it comes with the Google Cloud CLI, https://cloud.google.com/sdk/docs/install")
  tpu = Slice(shell, options)
  if options.delete:
    tpu.delete()
    return
  try:
    code = supervise(tpu, tail, options.max_restarts, options.poll_seconds)
  except KeyboardInterrupt:
    print(f"The run goes on without you. The same command goes back to it; this ends it: {tpu.delete_command()}")
    raise
  except UserError:
    if tpu.state != _ABSENT:
      print(f"The slice may still be there, and then costs money until: {tpu.delete_command()}")
    raise
  if options.delete_after:
    tpu.delete()
  elif not options.dry_run:
    print(f"The slice is kept, and costs money until: {tpu.delete_command()}")
  sys.exit(code)


if __name__ == "__main__":
  exit_on_error(main)
