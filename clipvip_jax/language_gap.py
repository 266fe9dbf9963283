"""Measures the language domain gap between two sets of texts (section 3.2 of the paper).

  python -m clipvip_jax.language_gap A B [--model=SOURCE] [--data_dir=DIR] [--plot=FILE.png]

A and B are files with one text per line, or fields of a corpus, such as moving_shapes/demo:train:subtitle. The gap is
the normalised mutual information (NMI) between set and K-means cluster of the text features: 0 if the clusters are
independent of the sets, 1 if they equal them. The gap between two halves of each set is the chance level. Exit codes: 0
success; 2 bad input.
"""

from collections.abc import Sequence

from clipvip_jax.utils.bucket_copies import check_folder_of, errors_by_address, fetch_file, uploaded_file
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, embeds the texts and prints the gaps."""
  parser = Parser(__doc__)
  parser.add_argument(
    "texts", metavar="TEXTS", nargs=2, help="FILE with one text per line, or CORPUS[/CONFIG]:SPLIT:FIELD"
  )
  parser.add_argument(
    "--model",
    metavar="SOURCE",
    default="hf://openai/clip-vit-base-patch32",
    help="text tower; default: hf://openai/clip-vit-base-patch32",
  )
  parser.add_argument("--data_dir", default="", help="dataset directory; default: that of TFDS")
  parser.add_argument(
    "--plot", type=path_argument("--plot"), help="image file to write: both sets, projected to two dimensions"
  )
  parser.add_argument("--seed", type=int, default=0, help="seed of sampling and K-means; default: 0")
  options = parser.parse_args(argv)
  if options.seed < 0:
    raise UserError(f"--seed={options.seed} must be at least 0")
  check_folder_of(options.plot, "--plot")
  from clipvip_jax.evaluation import language_gap

  with errors_by_address():
    texts = [language_gap.read_texts(str(fetch_file(name)), options.data_dir) for name in options.texts]
  from clipvip_jax.inference import load_model  # late: the texts are checked before JAX is imported

  model = load_model.load(options.model)
  a, b = (model.embed_texts(set_texts) for set_texts in texts)
  gap = language_gap.measure_gap(a, b, options.seed)
  rows = {f"{options.texts[0]} against {options.texts[1]}": gap}
  for name, features in zip(options.texts, (a, b), strict=True):
    halves = language_gap.measure_gap_of_halves(features, options.seed)
    if halves is not None:
      rows[f"halves of {name}"] = halves
  print(f"{'NMI':>6}{'texts':>8}  sets")
  for name, row in rows.items():
    print(f"{row.nmi:6.3f}{row.count:8d}  {printable(name)}")
  if options.plot:
    with uploaded_file(options.plot, "--plot") as plot:
      language_gap.plot_gap(plot, a, b, tuple(options.texts), gap)
    log.info("wrote %s", options.plot)


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
