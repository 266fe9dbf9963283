"""Compares two runs: results, curves and configurations.

  python -m clipvip_jax.compare RUN_A RUN_B [--html=compare.html]

RUN is the workdir of a finished run, or of an evaluation of one model. Differences are B minus A; recalls are in
percent. If the numbers are not comparable, for example on different clips, warnings precede them. Exit codes: 0
success; 2 bad input.
"""

from collections.abc import Sequence

from clipvip_jax.reporting import comparison
from clipvip_jax.runs.results import read_results
from clipvip_jax.utils.bucket_copies import check_folder_of, uploaded_file
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.log import log, printable


def main(argv: Sequence[str] | None = None) -> None:
  """Parses the flags, prints the comparison and writes the page."""
  parser = Parser(__doc__)
  parser.add_argument(
    "runs", metavar="RUN", nargs=2, type=path_argument("RUN"), help="workdir of a run or an evaluation"
  )
  parser.add_argument("--html", type=path_argument("--html"), help="write a page with curves to this file")
  options = parser.parse_args(argv)
  check_folder_of(options.html, "--html")
  run_a, run_b = map(read_results, options.runs)
  result = comparison.compare_runs(run_a, run_b)
  for line in comparison.comparison_lines(result):
    print(printable(line))
  if options.html:
    with uploaded_file(options.html, "--html") as page:
      comparison.write_comparison_page(page, result, "--html")
    log.info("wrote %s", options.html)


if __name__ == "__main__":
  run_command(main)
