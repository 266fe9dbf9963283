"""Trains variants of a recipe (arms) with several seeds, and compares them.

  python -m clipvip_jax.study --config=replication --workdir=DIR [--seeds=3] [--only=ARM ...]

The recipe's STUDY lists the arms of each comparison. Every arm and seed is a normal run in DIR/ARM/seed_N: finished
runs are skipped, interrupted ones resume. An arm with init_from="arm:NAME" starts from that arm's run with the same
seed. After every run, DIR/study.json, study.md and study.html are updated: mean and standard deviation over seeds, and
curves. --config names a Python file, which is run, or a recipe of the package. Exit codes: 0 success; 2 bad input;
143 SIGTERM, 130 Ctrl-C and 129 SIGHUP, with nothing lost.
"""

import os
from collections.abc import Sequence

from clipvip_jax.reporting import study_page
from clipvip_jax.training.study import load_study, run_study
from clipvip_jax.utils import storage
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log


def main(argv: Sequence[str] | None = None) -> None:
  """Parses flags, runs the study, prints its tables."""
  parser = Parser(__doc__)
  parser.add_argument(
    "--config",
    required=True,
    help="recipe with a STUDY: a Python file, which is run, or a name; variants for all arms after a colon",
  )
  parser.add_argument("--workdir", required=True, type=path_argument("--workdir"), help="folder of the study")
  parser.add_argument("--data_dir", default="", help="dataset directory; default: that of the recipe")
  parser.add_argument("--seeds", type=int, default=3, help="runs of each arm; default: 3")
  parser.add_argument("--only", nargs="+", default=(), metavar="ARM", help="arms to run and compare; default: all")
  options = parser.parse_args(argv)
  if options.seeds < 1:
    raise UserError(f"--seeds={options.seeds} must be at least 1")
  is_remote = storage.is_remote(options.workdir)
  folder = options.workdir if is_remote else options.workdir.resolve()
  storage.check_bucket(folder, "--workdir")
  study = load_study(options.config, folder, options.data_dir, options.only)
  study.plan(1)  # raises for unknown arms, before JAX is imported

  import jax

  # The seeds of an arm share compiled programs.
  if not is_remote and not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", os.fspath(study.folder / "compiled"))
  comparison = run_study(study, options.seeds)
  print(study_page.format_markdown(comparison))
  log.info("wrote %s, study.md and study.html", study.folder / "study.json")


if __name__ == "__main__":
  run_command(main)
