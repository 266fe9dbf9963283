"""Classifies videos without training, by prompts, and optionally with a linear probe.

  python -m clipvip_jax.classify --model=SOURCE --videos=VIDEOS --classes=FILE --workdir=DIR
  python -m clipvip_jax.classify ... --probe --train=VIDEOS

VIDEOS is a folder with one sub-folder per class (UCF101, HMDB51, Kinetics), or a list with the labels: a manifest of
JSON lines, JSON, CSV or TSV with video, label and optionally start and end; a CSV of Kinetics; a JSON of
Something-Something; a list of UCF101 (CLASS/NAME.avi), or of paths and ids; split files of HMDB51
('splits/*_test_split1.txt', of which --videos takes the test videos and --train the training videos). The class list is
text with one name per line, CSV or TSV with the columns name, id and prompts, or JSON. Features are kept in --workdir:
the same command resumes, also with other classes or templates. Writes results.json, predictions.jsonl and report.html.
Exit codes: 0 success; 2 bad input, or too many unreadable videos. The layouts are in evaluation/labelled_videos.py and
evaluation/class_list.py.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from clipvip_jax.inference.bucket_index import local_workdir
from clipvip_jax.input_pipeline.preprocessing import CROPS
from clipvip_jax.utils.bucket_copies import errors_by_address, fetch_file, to_addresses
from clipvip_jax.utils.cli import Parser, path_argument, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.utils.storage import is_remote

_MINIMUM = {"views": 1, "batch_size": 1, "threads": 0}


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument("--model", metavar="SOURCE", required=True, help="file, folder, hf://OWNER/NAME or workdir")
  parser.add_argument(
    "--videos",
    metavar="VIDEOS",
    required=True,
    type=path_argument("--videos"),
    help="a folder with one sub-folder per class, or a list",
  )
  parser.add_argument(
    "--classes", metavar="FILE", required=True, type=path_argument("--classes"), help="the class list"
  )
  parser.add_argument(
    "--workdir", required=True, type=path_argument("--workdir"), help="folder for features and results"
  )
  parser.add_argument(
    "--video_dir", type=path_argument("--video_dir"), help="folder of the videos of a list; default: that of the list"
  )
  parser.add_argument(
    "--templates",
    metavar="FILE",
    type=path_argument("--templates"),
    help="one template per line, {} for the class name; default: a built-in set",
  )
  parser.add_argument("--views", type=int, default=1, help="parts of a video whose features are averaged; default: 1")
  parser.add_argument("--crop", choices=CROPS, help="how frames become square; default: as in training, or squash")
  parser.add_argument("--batch_size", type=int, default=32, help="clips per batch; default: 32")
  parser.add_argument("--threads", type=int, default=0, help="decoding threads; default: 0, one per core")
  parser.add_argument(
    "--max_skipped", type=float, default=0.05, help="accepted fraction of unreadable videos; default: 0.05"
  )
  parser.add_argument("--probe", action="store_true", help="also fit a linear probe to --train; needs scikit-learn")
  parser.add_argument(
    "--train", metavar="VIDEOS", type=path_argument("--train"), help="training videos of the probe, as --videos"
  )
  return parser


def _check_options(options: argparse.Namespace) -> None:
  """Raises UserError for options that are wrong in themselves."""
  for name, minimum in _MINIMUM.items():
    if getattr(options, name) < minimum:
      raise UserError(f"--{name}={getattr(options, name)} must be at least {minimum}")
  if not 0 <= options.max_skipped <= 1:
    raise UserError(f"--max_skipped={options.max_skipped} must be between 0 and 1")
  if options.probe != (options.train is not None):
    raise UserError(
      "--probe needs --train=VIDEOS, the videos that it is fitted to, and --train needs --probe; pass both"
    )
  if options.video_dir and all(
    not is_remote(path) and path.is_dir() for path in (options.videos, options.train) if path
  ):
    raise UserError(f"--video_dir={options.video_dir} applies to lists only, and --videos is a folder; omit it")


def main(argv: Sequence[str] | None = None) -> None:
  """Parses options, classifies and prints the results."""
  options = _parser().parse_args(argv)
  _check_options(options)
  from clipvip_jax.evaluation import class_list, labelled_videos, linear_probe

  if options.probe:
    linear_probe.require_sklearn()
  with errors_by_address():
    templates: Sequence[str] = class_list.DEFAULT_TEMPLATES
    if options.templates:
      templates = class_list.read_templates(fetch_file(options.templates))
    classes = class_list.read_classes(fetch_file(options.classes), templates)
  videos = labelled_videos.read_videos(options.videos, classes, options.video_dir)
  train = labelled_videos.read_videos(options.train, classes, options.video_dir, "train") if options.train else None
  if train is not None:
    labelled_videos.check_disjoint(train, videos)
  from clipvip_jax.evaluation import classification  # late: videos and classes are checked before JAX is imported
  from clipvip_jax.inference import load_model
  from clipvip_jax.reporting import classification_report

  model = load_model.load(options.model, crop=options.crop, batch_size=options.batch_size)
  task = classification.ClassificationTask(classes, videos, train, options.views, options.threads, options.max_skipped)
  with local_workdir(options.workdir, "--workdir", last="results.json") as (workdir, publish):
    workdir = workdir.resolve()
    results = classification.classify(model, dataclasses.replace(task, publish=publish), workdir)
    classification_report.write_classification_page(workdir / "report.html", results)
  print(classification_report.format_classification(results))
  log.info("wrote %s and report.html", to_addresses(str(workdir / "results.json")))


if __name__ == "__main__":
  run_command(main, keep_compiled=True)
