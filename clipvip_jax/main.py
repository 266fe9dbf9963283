"""Trains CLIP-ViP and measures retrieval.

  python -m clipvip_jax.main --config=configs/post_pretrain.py:demo --workdir=DIR [--config.SECTION.FIELD=VALUE ...]

Exit codes: 0 done; 2 bad input or a full disk, said in one line. To be started again with the same command: 143 ended
by SIGTERM after saving; 75 it hung (host.watchdog_timeout) or a peer process died, which it names; 134 a process
never joined.
"""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from clipvip_jax.utils import recipe_flags
from clipvip_jax.utils.cli import EXIT_TERMINATED, report_error, run_command
from clipvip_jax.utils.errors import Terminated, UserError
from clipvip_jax.utils.log import configure_logging, log

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, with variants behind a colon.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; a run that it holds is continued.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the processes of a launch (SLURM, Cloud TPU, MPI).")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the launch does not tell.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the launch, where it does not tell.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, where the launch does not tell.")


def parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, with every way in which a recipe or an override can be wrong as one kind of error.

  Raises:
    UserError: a flag, a variant, a field or a value that does not exist.
  """
  rest = recipe_flags.explain_errors(argv, lambda: flags.FLAGS(argv))
  recipe_flags.explain_errors(argv, lambda: getattr(_CONFIG.value, "seed", None))  # read on its first use
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; see --help")
  for flag in (_CONFIG, _WORKDIR):
    if not flag.value:
      raise UserError(
        f"--{flag.name} is missing, as in: python -m clipvip_jax.main --config=configs/post_pretrain.py:demo "
        "--workdir=build/demo"
      )
  if "://" in str(_WORKDIR.value):
    raise UserError(f"--workdir={_WORKDIR.value}: a run's folder must be a path of the file system; mount the bucket")
  if (_NUM_PROCESSES.value, _PROCESS_ID.value) != (None, None) and not _COORDINATOR.value:
    raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT, the address of process 0")
  return rest


def main(argv: list[str]) -> None:
  """Reads flags, then one call."""
  del argv
  # Late, so that --help and a wrong flag answer at once.
  import jax

  from clipvip_jax.distributed import coordination
  from clipvip_jax.training import trainer

  if _DISTRIBUTED.value or _COORDINATOR.value:
    coordination.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  configure_logging(warnings_only=jax.process_index() != 0)
  try:
    trainer.train(_CONFIG.value, pathlib.Path(_WORKDIR.value or ".").resolve())
  except Terminated as stop:
    log.info("%s", stop)
    sys.exit(EXIT_TERMINATED)
  except Exception as error:
    if jax.process_count() > 1:
      coordination.shutdown(report_error(error), str(error))
    raise


if __name__ == "__main__":
  run_command(lambda: app.run(main, flags_parser=parse_flags))
