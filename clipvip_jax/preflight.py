"""Compiles a run's training step without the target hardware, and reports memory, operations and time.

  python -m clipvip_jax.preflight --config=post_pretrain:b16 --topology=v5e:4x8 [--config.FIELD=VALUE ...]

For TPU slices (v5e, v5p, v6e, tpu7x), libtpu compiles exactly as on the slice. For GPUs (a100:8, h100:8, h200:16,
b200:8, gb200:72), the step is compiled for the same number of CPU devices: operations and communication equal those of
XLA's partitioner on GPUs; memory and its traffic are upper estimates, since CPUs store float32 where GPUs store
bfloat16, fuse less, and lack kernels of attention. Times are lower bounds, computed from published peaks. The memory
time of TPUs counts bytes that cross the boundary of a chip's memory (HBM), named by module. A core of a TPU7x, which
has two, counts as a chip, as in JAX. --run=WORKDIR compares the memory with that of a finished run. Exit codes: 0 fits;
1 does not fit; 2 bad input.
"""

import sys
from collections.abc import Sequence

from clipvip_jax.cost_model import chips, preflight_table
from clipvip_jax.utils import config_tree, recipe_flags, storage
from clipvip_jax.utils.bucket_copies import uploaded_file
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.log import log

DOES_NOT_FIT = 1


def main(argv: Sequence[str] | None = None) -> None:
  """Compiles the step, prints the report, and exits with DOES_NOT_FIT if it does not fit."""
  parser = Parser(__doc__)
  parser.add_argument(
    "--config", required=True, help="recipe: a Python file, which is run, or a name; variants after a colon"
  )
  parser.add_argument("--topology", required=True, help="type and number of chips, such as v5e:4x8 or h100:8")
  parser.add_argument("--json", type=path_argument("--json"), help="write the report to this file")
  parser.add_argument("--largest_batch", action="store_true", help="estimate the largest batch that fits")
  parser.add_argument(
    "--run",
    type=path_argument("--run"),
    help="compare with the peak memory of this workdir, a run of the same recipe on the same chips",
  )
  options, overrides = parser.parse_known_args(argv)
  chips.parse_topology(options.topology)
  if options.json:
    storage.check_bucket(options.json, "--json")
  config = recipe_flags.parse_config([f"--config={options.config}", *overrides])
  from clipvip_jax.cost_model.measured_memory import measured_memory  # lazy, so that --help is fast
  from clipvip_jax.cost_model.step_report import step_report
  from clipvip_jax.training.model_sizes import fill_sizes

  measured = {"memory_measured": measured_memory(options.run, fill_sizes(config))} if options.run else {}
  report = {"config": options.config} | step_report(config, options.topology, largest_batch=options.largest_batch)
  report |= measured
  print("\n".join(preflight_table.lines(report)))
  if options.json:
    with uploaded_file(options.json, "--json") as path:
      config_tree.write_json(path, report)
    log.info("wrote %s", options.json)
  if not report["fits"]:
    sys.exit(DOES_NOT_FIT)


if __name__ == "__main__":
  run_command(main)
