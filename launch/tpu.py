"""Launcher for TPU VMs: requests a slice, monitors the run, restarts it, and replaces a preempted slice.

  python -m launch.tpu --name=vip --zone=us-east5-b --accelerator=v6e-32 --spot \\
    --prepare='mountpoint -q /shared || sudo mount -t nfs 10.0.0.2:/share /shared' \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora
  python -m launch.tpu --name=vip --zone=us-east5-b --delete

Requests the slice as a queued resource, installs the project, requirements.lock and JAX for TPU on its workers, and
starts clipvip_jax.main on each; the processes connect through the metadata server. The run continues after a broken
connection or Ctrl-C, and the same command attaches to it again. Exits with the run's exit code.
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

# Sizes N of GENERATION-N: TensorCores for v4 and v5p (two per chip), otherwise chips; and the runtime version.
_CHIP_COUNTS = (1, 4, 8, 16, 32, 64, 128, 256)
_GENERATIONS = {
  "v4": ((8, 16, 32, 64, *range(128, 4097, 128)), "tpu-ubuntu2204-base"),
  "v5litepod": (_CHIP_COUNTS, "v2-alpha-tpuv5-lite"),
  "v5p": ((8, 16, 32, 64, *range(128, 12289, 128)), "v2-alpha-tpuv5"),
  "v6e": (_CHIP_COUNTS, "v2-alpha-tpuv6e"),
}
# Parts of the project that are copied to the workers.
_COPIED = ("clipvip_jax", "configs", "data", "launch", "requirements.lock")
_TYPES = ", ".join(f"{name}-N" for name in _GENERATIONS)
_ABSENT, _ACTIVE, _READY = "ABSENT", "ACTIVE", "READY"
# Final states of a queued resource and of its machines.
_FINAL_STATES = ("FAILED", "SUSPENDED", "PREEMPTED", "TERMINATED", "STOPPED")
_NO_CONNECTION = 255  # exit code of ssh
_MAX_RETRIES = 120  # consecutive failures of a state request or connection, such as while a laptop sleeps
_SHORT_CONNECTION_SECONDS = 60.0  # a shorter connection counts as a consecutive failure


def accelerator(text: str) -> str:
  """Argparse type of accelerator types, such as v6e-32."""
  generation, _, size = text.partition("-")
  if generation not in _GENERATIONS:
    raise argparse.ArgumentTypeError(f"{text!r} is not an accelerator type; use one of {_TYPES}")
  sizes = _GENERATIONS[generation][0]
  if size not in map(str, sizes):
    allowed = ", ".join(map(str, sizes[:8])) + (f", or a multiple of 128 up to {sizes[-1]}" if len(sizes) > 8 else "")
    raise argparse.ArgumentTypeError(f"{text!r} is not an accelerator type; in {generation}-N, N is one of {allowed}")
  return text


def zone(text: str) -> str:
  """Argparse type of zones, such as us-east5-b."""
  if not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", text):
    raise argparse.ArgumentTypeError(f"{text!r} is not a zone; pass a name such as us-east5-b")
  return text


class Slice:
  """A queued resource and its TPU VMs."""

  def __init__(self, shell: common.Shell, options: argparse.Namespace):
    self._shell, self._options, self.state = shell, options, _ABSENT
    self._retries_left = 0  # of a state request; none before the first success
    self._location = [f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else [])]

  def obtain(self) -> None:
    """Waits until the slice is ready; requests it if it is absent, and again if it was preempted.

    Raises:
      UserError: the request failed.
    """
    requested, previous = False, ""
    while not self.ready(dry_run_state=_ACTIVE if requested else _ABSENT):
      state = self.state
      if state != previous:
        self._shell.log(f"{self._options.name} is {state}")
      previous = state
      if state == "FAILED" and requested:
        raise UserError(
          f"the request for --name={self._options.name} failed; see: {shlex.join(self._queued('describe'))}"
        )
      if state == _ABSENT:
        self._create()
        requested = True
      elif state in _FINAL_STATES:
        self.delete()
      else:
        time.sleep(self._options.poll_seconds)

  def ready(self, *, dry_run_state: str = _ACTIVE) -> bool:
    """Updates `state` and returns whether it is READY. A dry run takes `dry_run_state` as the response."""
    self.state = self._query_state(self._queued("describe", "--format=value(state.state)"), dry_run_state)
    if self.state == _ACTIVE:  # remains ACTIVE for a while after a preemption, so check the machines
      machine_state = self._query_state(self._vms("describe", self._options.name, "--format=value(state)"), _READY)
      self.state = "SUSPENDED" if machine_state == _ABSENT else machine_state
    return self.state == _READY

  def install(self) -> int:
    """Installs project and packages on every worker without a live run. Returns 0, or the exit code of a failure."""
    archive = common.ROOT / "build" / "launch" / "clipvip_jax.tar.gz"
    self._shell.run_checked(["mkdir", "-p", str(archive.parent)])
    self._shell.run_checked(["tar", "--exclude=__pycache__", "-czf", str(archive), "-C", str(common.ROOT), *_COPIED])
    copy = self._vms("scp", str(archive), f"{self._options.name}:", "--worker=all", "--quiet")
    script = "\n".join(["set -e", *_install_commands(), *self._options.prepare])
    # A live run holds the lock (worker.py). --close: a mount's daemon would inherit the lock and keep it.
    locked = ["flock", "--close", "--nonblock", "--conflict-exit-code=0", "clipvip_jax/lock", "bash", "-c", script]
    install = self._ssh(f"mkdir -p clipvip_jax && {shlex.join(locked)}")
    return self._shell.run(copy) or self._shell.run(install)

  def start(self, number: int, training_args: Sequence[str]) -> int:
    """Starts the run on every worker, or attaches to it; returns its exit code. `number`: see launch/worker.py."""
    python = "../venv/bin/python"
    main = [python, "-m", "clipvip_jax.main", "--distributed", *training_args]
    command = ["env", *(f"{name}={content}" for name, content in self._options.env)]
    command += [python, "-m", "launch.worker", "..", str(number), *main]
    return self._shell.run(self._ssh(f"cd clipvip_jax/source && exec {shlex.join(command)}"))

  def delete(self) -> None:
    """Deletes the slice and stops any run on it."""
    self._shell.run_checked(self._queued("delete", "--force", "--quiet"))

  def delete_command(self) -> str:
    """Returns the command that deletes the slice."""
    return f"python -m launch.tpu --name={self._options.name} {shlex.join(self._location)} --delete"

  def _create(self) -> None:
    options = self._options
    runtime = options.runtime_version or _GENERATIONS[options.accelerator.partition("-")[0]][1]
    command = self._queued(
      "create", f"--node-id={options.name}", f"--accelerator-type={options.accelerator}", f"--runtime-version={runtime}"
    )
    self._shell.run_checked([*command, *(["--spot"] if options.spot else []), *options.extra, "--quiet"])

  def _query_state(self, command: Sequence[str], dry_run_state: str) -> str:
    while True:
      code, state, errors = self._shell.capture(command, dry_run_output=dry_run_state)
      if code == 0 or "NOT_FOUND" in errors:
        self._retries_left = _MAX_RETRIES
        return _ABSENT if code else state
      if not self._retries_left:
        reason = errors or f"exit code {code}"
        raise UserError(
          f"cannot query the state of --name={self._options.name} ({reason}); check gcloud's login, project and zone"
        )
      self._retries_left -= 1
      time.sleep(self._options.poll_seconds)

  def _queued(self, verb: str, *flags: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb, self._options.name, *self._location, *flags]

  def _vms(self, verb: str, *arguments: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "tpu-vm", verb, *arguments, *self._location]

  def _ssh(self, command: str) -> list[str]:
    # Without keepalive messages, ssh would not detect that a machine was preempted.
    keepalive = "--ssh-flag=-oServerAliveInterval=30"
    return [*self._vms("ssh", self._options.name, "--worker=all", keepalive, "--quiet"), f"--command={command}"]


def _install_commands() -> list[str]:
  """Returns shell commands for a worker's home folder. uv installs Python, because the system's is too old."""
  return [
    "cd clipvip_jax",
    "rm -rf source number log exit",
    "mkdir source",
    "tar -xzf ../clipvip_jax.tar.gz -C source",
    "python3 -m pip install --quiet --user uv",
    "test -x venv/bin/python || python3 -m uv venv --quiet --python 3.11 venv",
    "python3 -m uv pip install --quiet --python venv/bin/python -r source/requirements.lock 'jax[tpu]'",
  ]


def supervise(tpu: Slice, training_args: Sequence[str], max_restarts: int, retry_seconds: float) -> int:
  """Runs training until it ends, over restarts and preemptions.

  Args:
    tpu: the slice.
    training_args: flags of clipvip_jax.main.
    max_restarts: limit for preemptions and restarts; attaching to a live run again does not count.
    retry_seconds: pause before reconnecting.

  Returns:
    The exit code of the run, or the last one if `max_restarts` is reached.

  Raises:
    UserError: the slice could not be obtained or reached.
  """
  number, failed_connections = 1, 0
  installed = False
  while True:
    if not installed:
      tpu.obtain()
    start = time.monotonic()
    phase, code = "installation", 0 if installed else tpu.install()
    if code == 0:
      phase, code, installed = "the run", tpu.start(number, training_args), True
      if code == 0:
        return 0
    if time.monotonic() - start > _SHORT_CONNECTION_SECONDS:
      failed_connections = 0
    if not tpu.ready():
      print(f"exit code {code}: the slice was preempted ({tpu.state}); requesting it again", flush=True)
      number, installed = number + 1, False
    elif code == _NO_CONNECTION and failed_connections < _MAX_RETRIES:
      print("lost the connection; attaching to the run again", flush=True)
      failed_connections += 1
      time.sleep(retry_seconds)
    elif code == _NO_CONNECTION:
      raise UserError(
        f"no connection to the slice after {_MAX_RETRIES} attempts; repeat the command to attach to a live run"
      )
    elif code in RESTART_EXIT_CODES:
      print(f"exit code {code}: saved after SIGTERM, hung or lost a peer process; restarting", flush=True)
      number += 1
    else:
      print(f"error: {phase} failed with exit code {code}; see its output above", file=sys.stderr)
      return code
    if number > max_restarts + 1:
      print(f"error: reached --max_restarts={max_restarts}; repeat the command to resume", file=sys.stderr)
      return code


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = common.parser(__doc__)
  parser.add_argument("--zone", required=True, type=zone, help="zone of the slice, such as us-east5-b")
  parser.add_argument("--project", default="", help="Google Cloud project; default: that of gcloud")
  parser.add_argument("--accelerator", type=accelerator, help="accelerator type, such as v6e-32")
  parser.add_argument("--runtime_version", default="", help="TPU software version; default: that of the accelerator")
  parser.add_argument("--spot", action="store_true", help="request preemptible machines")
  parser.add_argument(
    "--extra", action="append", default=[], metavar="--FLAG=VALUE", help="flag for queued-resources create; repeatable"
  )
  parser.add_argument(
    "--prepare",
    action="append",
    default=[],
    metavar="COMMAND",
    help="bash command to run on every worker first, such as a mount; repeatable",
  )
  parser.add_argument(
    "--poll_seconds", type=float, default=30.0, help="interval of state requests and retries; default: 30"
  )
  parser.add_argument("--delete", action="store_true", help="delete the slice and exit")
  parser.add_argument("--delete_after", action="store_true", help="delete the slice when the run ends")
  options, training_args = common.parse(parser, argv)
  if not options.delete:
    if not options.accelerator:
      raise UserError(f"--accelerator is missing; use one of {_TYPES}")
    common.check_training(training_args, remote=True)
  return options, training_args


def main() -> None:
  """Parses options and supervises the run."""
  options, training_args = _options(sys.argv[1:])
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("gcloud", "install the Google Cloud CLI: https://cloud.google.com/sdk/docs/install")
  tpu = Slice(shell, options)
  if options.delete:
    tpu.delete()
    return
  try:
    code = supervise(tpu, training_args, options.max_restarts, options.poll_seconds)
  except KeyboardInterrupt:
    print(f"The run continues. Repeat the command to attach to it; stop it with: {tpu.delete_command()}")
    raise
  except UserError:
    if tpu.state != _ABSENT:
      print(f"The slice may still exist and cost money; delete it with: {tpu.delete_command()}")
    raise
  if options.delete_after:
    tpu.delete()
  elif not options.dry_run:
    print(f"The slice still exists and costs money; delete it with: {tpu.delete_command()}")
  sys.exit(code)


if __name__ == "__main__":
  exit_on_error(main)
