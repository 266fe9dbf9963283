"""Converts weights of any SOURCE to a layout that other projects read, or publishes them on the HuggingFace Hub.

  python -m clipvip_jax.convert SOURCE TARGET [--layout=clip_vip|clip|openclip]
  python -m clipvip_jax.convert SOURCE TARGET --interpolate=SOURCE2 --alpha=0.5
  python -m clipvip_jax.convert WORKDIR hf://OWNER/NAME --license=apache-2.0 [--private] [--dry-run]

SOURCE is a weight file, a folder, hf://OWNER/NAME or a workdir. TARGET is FILE.safetensors, FILE.pt (PyTorch's format;
the e2e_weights_path of CLIP-ViP's code), or a folder, to which configuration and tokenizer are also written, or
hf://OWNER/NAME[@BRANCH], a repository on the Hub, which also gets a model card with the results of the run. The token
is that of `hf auth login` or HF_TOKEN. --interpolate writes (1 - alpha) * SOURCE + alpha * SOURCE2, as in WiSE-FT. Exit
codes: 0 success; 2 bad input.
"""

import argparse
import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipvip_jax.utils import bucket_copies, storage, transfers
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log, printable

if TYPE_CHECKING:
  from clipvip_jax.reporting.model_card import CardFields
  from clipvip_jax.runs.results import RunResults
  from clipvip_jax.weights.hub_upload import Destination
  from clipvip_jax.weights.sources import Weights

_HUB_OPTIONS = ("license", "license_name", "license_link", "private", "message", "dry_run")


def main(argv: Sequence[str] | None = None) -> None:
  """Reads SOURCE and writes TARGET.

  Raises:
    UserError: an invalid option, a source that cannot be read, two that cannot be interpolated, or a layout that does
      not support them or, without --lossy, cannot express how a run embeds; for the Hub, see also `hub_upload` and
      `CardFields`.
  """
  options = _parser().parse_args(argv)
  from clipvip_jax.weights import export  # lazy, so that --help is fast
  from clipvip_jax.weights.source_paths import HUB

  publication = None
  if options.target.startswith(HUB):
    with bucket_copies.errors_by_address():
      publication = _prepare(options)
  elif "://" in options.target and not storage.is_remote(options.target):
    raise UserError(
      f"TARGET={printable(options.target, 160)} is neither a local path nor {HUB}OWNER/NAME; use one of them"
    )
  elif given := [name for name in _HUB_OPTIONS if getattr(options, name)]:
    raise UserError(f"--{given[0]} is an option of targets on the Hub; use {HUB}OWNER/NAME as TARGET, or omit it")
  else:
    storage.check_path(options.target, "TARGET")
    storage.check_bucket(options.target, "TARGET")
  weights = _read(options)
  layout = options.layout or export.default_layout(weights)
  if not options.lossy:
    export.check_lossless(weights, layout)
  if publication is not None:
    with bucket_copies.errors_by_address():
      _publish(options, publication, weights, layout)
    return
  num_parameters = sum(x.size for x in weights.params.values())
  files = ", ".join(_export(options, weights, layout))
  log.info("wrote %s parameters in layout %s: %s", f"{num_parameters:,}", layout, files)


def _export(options: argparse.Namespace, weights: "Weights", layout: str) -> list[str]:
  """Writes TARGET, local or in a bucket; returns the names of its files."""
  from clipvip_jax.weights import export

  target = bucket_copies.local_copy(options.target)
  with bucket_copies.errors_by_address():
    if storage.is_remote(options.target):
      _mark_existing(options.target)
    paths = export.export_weights(weights, target, layout, overwrite=options.overwrite)
  names = [bucket_copies.to_addresses(str(path)) for path in paths]
  if storage.is_remote(options.target):
    for name, path in list(zip(names, paths, strict=True))[::-1]:  # the weights last
      transfers.upload(path, storage.absolute(name))
  return names


def _mark_existing(target: str) -> None:
  """Creates local files in place of those in a bucket that `export_weights` refuses to replace, or reads."""
  from clipvip_jax.weights.source_paths import FOLDER_FILES

  address = storage.absolute(target)
  bucket_copies.fetch_files(address.parent, [name for name in FOLDER_FILES if name.endswith("config.json")])
  for path in (address, *(address / name for name in FOLDER_FILES)):
    if transfers.retry(path, path.is_file):
      local = bucket_copies.local_copy(path)
      local.parent.mkdir(parents=True, exist_ok=True)
      local.touch()


def _parser() -> Parser:
  parser = Parser(__doc__)
  parser.add_argument("source", metavar="SOURCE")
  parser.add_argument("target", metavar="TARGET")
  parser.add_argument(
    "--layout", help="clip_vip, clip (HuggingFace's) or openclip; default: clip if it can express SOURCE, else clip_vip"
  )
  parser.add_argument("--activation", help="quick_gelu or gelu; default: as SOURCE states")
  parser.add_argument("--vision_heads", type=int, help="default: as SOURCE states, else one per 64 channels")
  parser.add_argument("--text_heads", type=int, help="default: as --vision_heads")
  parser.add_argument("--overwrite", action="store_true", help="replace existing files, or the files of a repository")
  parser.add_argument(
    "--lossy", action="store_true", help="export even if other programs will compute different features"
  )
  parser.add_argument("--interpolate", metavar="SOURCE2", help="second weights to interpolate with; requires --alpha")
  parser.add_argument("--alpha", type=float, help="weight of SOURCE2, from 0 to 1")
  parser.add_argument("--keep_unshared", action="store_true", help="keep parameters that only one source has")
  hub = parser.add_argument_group("targets on the Hub")
  hub.add_argument("--license", metavar="ID", help="license identifier, such as mit, cc-by-nc-4.0 or other; required")
  hub.add_argument("--license_name", metavar="NAME", help="name of the license, with --license=other")
  hub.add_argument("--license_link", metavar="URL", help="address of the license, with --license=other")
  hub.add_argument("--private", action="store_true", help="create a private repository; refuse a public one")
  hub.add_argument("--message", help="commit message; default: Upload NAME with clipvip_jax VERSION")
  hub.add_argument(
    "--dry-run", "--dry_run", action="store_true", help="write the folder to exports/OWNER/NAME, without network"
  )
  return parser


def _read(options: argparse.Namespace) -> "Weights":
  """Reads the weights of SOURCE, interpolated with those of SOURCE2 if there is one."""
  from clipvip_jax.models.clip_vip import parameter_shapes
  from clipvip_jax.weights import load_params, sources
  from clipvip_jax.weights.model_config import Hints

  other = options.interpolate
  if other is None and (options.alpha is not None or options.keep_unshared):
    raise UserError("--alpha and --keep_unshared are options of --interpolate=SOURCE2; add it, or omit them")
  if other is not None and options.alpha is None:
    raise UserError("--interpolate requires --alpha, the share of SOURCE2 from 0 to 1, such as --alpha=0.5")
  read = []
  for source in [options.source] if other is None else [options.source, other]:
    weights = sources.read_weights(source, Hints(options.activation, options.vision_heads, options.text_heads))
    load_params.check_complete(weights.params, parameter_shapes(weights.config), weights.source)
    if described := load_params.describe_not_finite(weights.params):
      log.warning("%s: %s", weights.source, described)
    read.append(weights)
  if other is None:
    return read[0]
  from clipvip_jax.inference.interpolation import interpolate

  first, second = read
  return interpolate(first, second, options.alpha, keep_unshared=options.keep_unshared)


@dataclasses.dataclass(frozen=True)
class _Publication:
  """Settings of a publication, validated before weights are read; `destination` is None in a dry run."""

  fields: "CardFields"
  results: "RunResults | None"
  destination: "Destination | None"


def _prepare(options: argparse.Namespace) -> _Publication:
  """Checks everything about a publication that needs no weights; changes nothing on the Hub."""
  from clipvip_jax.reporting.model_card import CardFields
  from clipvip_jax.runs.results import read_results
  from clipvip_jax.weights import hub_upload, source_paths

  repository, _ = hub_upload.split_target(options.target)
  fields = CardFields(repository, options.target, options.license, options.license_name, options.license_link)
  results = None
  if options.interpolate is not None:
    raise UserError(
      "--interpolate writes to local targets only, since no results are of the interpolated weights; use a folder as"
      " TARGET, then publish that folder"
    )
  if source_paths.is_run(options.source):
    folder, _, raw = source_paths.parse_run(options.source)
    if raw:
      raise UserError(
        f"{options.source}: {folder / 'results.json'}, of which the model card is made, may be of the average; publish"
        f" {folder}, or export to a folder and publish that"
      )
    if not (folder / "results.json").is_file():
      raise UserError(f"{folder} holds no results.json, of which the model card is made; finish the run first")
    results = read_results(folder)
  destination = None
  if not options.dry_run:
    destination = hub_upload.find_destination(options.target, private=options.private, overwrite=options.overwrite)
  return _Publication(fields, results, destination)


def _publish(options: argparse.Namespace, publication: _Publication, weights: "Weights", layout: str) -> None:
  """Writes the folder of a repository and uploads it, or keeps it in a dry run."""
  from clipvip_jax.reporting import pages
  from clipvip_jax.utils.versions import __version__
  from clipvip_jax.weights import export, hub_upload

  card, destination = _card(publication, weights, layout), publication.destination
  local = pathlib.Path("exports", *publication.fields.repository.split("/"))
  if destination is None and (local / hub_upload.CARD).exists() and not options.overwrite:
    raise UserError(f"{local / hub_upload.CARD} already exists; move it, or add --overwrite")
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) if destination else local
    files = export.export_weights(weights, folder, layout, overwrite=options.overwrite, clip_tokenizer=True)
    files.append(folder / hub_upload.CARD)
    pages.save_page(files[-1], card)
    if destination is None:
      log.info("wrote %s to %s; nothing was uploaded", ", ".join(path.name for path in files), folder)
      return
    message = options.message or f"Upload {publication.fields.repository} with clipvip_jax {__version__}"
    url = hub_upload.upload(folder, destination, private=options.private, message=message)
  log.info("published %s (layout %s, %d files): %s", destination.url, layout, len(files), url)


def _card(publication: _Publication, weights: "Weights", layout: str) -> str:
  """Renders the model card; refuses results of another step than the weights."""
  from clipvip_jax.reporting import model_card

  results = publication.results
  if results is None:
    log.warning("%s is not a run: the model card has no results", weights.source)
    return model_card.render_card(weights, layout, publication.fields, None)
  path, best = results.folder / "results.json", results.results.get("best_step")
  if best != weights.step:
    raise UserError(
      f"{path} is of step {best}, the weights are of step {weights.step}; publish {results.folder}@{best}, or finish"
      " the run"
    )
  try:
    return model_card.render_card(weights, layout, publication.fields, results)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f"{path} is corrupt or of another version ({first_line(error)}); run the evaluation again"
    ) from error


if __name__ == "__main__":
  run_command(main)
