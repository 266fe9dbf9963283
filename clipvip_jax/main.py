"""Trains CLIP-ViP and evaluates retrieval.

  python -m clipvip_jax.main --config=post_pretrain:demo --workdir=DIR [--config.SECTION.FIELD=VALUE ...]

Prints the results and writes them to DIR. The same command resumes an interrupted run. --config names a Python
file, which is run, or a recipe of the package. Exit codes: 0 success; 2 bad input or a full disk, with a one-line
error. Resume after these: 143 SIGTERM, 130 Ctrl-C and 129 SIGHUP, with nothing lost; 75 a process hung
(host.watchdog_timeout) or died, and the error names it; 134 a process never joined.
"""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from clipvip_jax.utils import recipe_flags, storage
from clipvip_jax.utils.cli import report_error, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import configure_logging

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Recipe: a Python file, which is run, or a name; variants after a colon.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run, local or gs:// or s3://; resumes a run that it holds."
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join a multi-process launch of SLURM, Cloud TPU or MPI.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if --distributed cannot detect it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process from 0, with --coordinator.")


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags for `absl.app.run`.

  Raises:
    UserError: a flag, recipe, variant, field or value does not exist.
  """
  argv = recipe_flags.resolve_recipe(argv)
  try:
    rest = recipe_flags.explain_errors(argv, lambda: flags.FLAGS(argv))
  except SystemExit:  # absl has printed --help, for which it exits with 1
    sys.exit(0)
  recipe_flags.explain_errors(argv, lambda: getattr(_CONFIG.value, "seed", None))  # loads the recipe
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; see --help")
  for flag in (_CONFIG, _WORKDIR):
    if not flag.value:
      raise UserError(
        f"--{flag.name} is missing; example: python -m clipvip_jax.main --config=post_pretrain:demo "
        "--workdir=build/demo"
      )
  storage.check_path(str(_WORKDIR.value), "--workdir")
  if (_NUM_PROCESSES.value, _PROCESS_ID.value) != (None, None) and not _COORDINATOR.value:
    raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT, the address of process 0")
  return rest


def main(argv: list[str]) -> None:
  """Joins the launch, trains, and prints the results."""
  del argv
  # Imported here, so that --help and flag errors do not wait for JAX.
  import jax

  from clipvip_jax.distributed import coordination
  from clipvip_jax.training import final_evaluation, trainer

  if _DISTRIBUTED.value or _COORDINATOR.value:
    coordination.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  configure_logging(warnings_only=jax.process_index() != 0)
  try:
    workdir = storage.absolute(_WORKDIR.value or ".")
    results = trainer.train(_CONFIG.value, workdir if storage.is_remote(workdir) else pathlib.Path(workdir).resolve())
  except Exception as error:
    if jax.process_count() > 1:
      coordination.shutdown(report_error(error), str(error))
    raise
  if jax.process_index() == 0:
    print(final_evaluation.format_results(results))


if __name__ == "__main__":
  run_command(lambda: app.run(main, flags_parser=parse_flags))
