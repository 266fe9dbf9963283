"""Configuration checks that read no corpus: an invalid field fails before anything is compiled or written."""

import pathlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline.frame_sampling import MAX_FRAMES
from clipvip_jax.input_pipeline.preprocessing import check_crop, check_pixels
from clipvip_jax.models import attention, clip_vip
from clipvip_jax.runs import checkpoint
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.tracking import names as tracker_names
from clipvip_jax.training import optimizer
from clipvip_jax.training.duration import MAX_STEPS
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.step_profile import parse_steps
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import source_paths

_UNBOUNDED = 2**63 - 1
# Field -> the least and the largest value. JAX has 32 bits for seeds and steps: larger seeds would repeat others.
_RANGES = {
  "seed": (0, 2**32 - 1),
  "data.text_length": (2, _UNBOUNDED),  # at most model.text.positions
  "train.batch_size": (1, 2**24),
  "train.epochs": (0, MAX_STEPS),
  "train.num_steps": (0, MAX_STEPS),
  "train.eval_every": (1, _UNBOUNDED),
  "train.checkpoint_every": (1, _UNBOUNDED),
  "train.num_microbatches": (1, _UNBOUNDED),
  "evaluate.batch_size": (1, 2**24),
  "evaluate.num_examples": (0, 10_000),
  "host.num_workers": (0, 1024),
  "host.log_every": (1, _UNBOUNDED),
  "host.keep_checkpoints": (1, _UNBOUNDED),
  "host.watchdog_timeout": (0, _UNBOUNDED),
}
_MAX_BATCH_BYTES = 2**40


def check_run(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Checks a configuration on this host: see `check_fields`; the initial weights' path, and the run in `workdir`.

  Raises:
    UserError: names the field and the allowed values.
  """
  check_fields(config)
  if config.init_from and not checkpoint.has_checkpoint(workdir / "checkpoints"):
    source_paths.check_source(config.init_from)
  run_workdir.check_config(workdir, config_tree.to_json_dict(config), extendable=True)


def check_fields(config: ConfigDict) -> None:
  """Checks a configuration on this host, without accessing files: fields, attention kernels and trackers.

  Raises:
    UserError: names the field and the allowed values.
  """
  check_recipe(config, jax.device_count())
  attention.resolve_implementation(config.model.get("attention", "auto"), jnp.dtype(config.model.dtype))
  if jax.process_index() == 0:  # which alone tracks: other hosts need no tracker's package
    tracker_names.parse_names(config.host.tracker)


def check_recipe(config: ConfigDict, num_devices: int) -> None:
  """Checks a configuration for a number of devices, without accessing files or devices.

  Raises:
    UserError: names the field and the allowed values.
  """
  clip_vip.from_config(config.model)
  optimizer.from_config(config.optimizer, 1)
  if config.loss not in LOSSES:
    raise UserError(f"loss={config.loss!r} is unknown; allowed: {', '.join(LOSSES)}")
  check_crop(config.data.crop, "data.crop")
  check_pixels(config.data.pixels, "data.pixels")
  _check_lengths(config)
  for section, stream in stream_sections(config):
    _check_stream(section, stream, config.loss)
    _check_batch_bytes("train", config.train.batch_size, section, stream.num_frames, config.model.image_size)
  _check_batch_bytes("evaluate", config.evaluate.batch_size, "data", config.data.num_frames, config.model.image_size)
  _check_duration(config.train)
  parse_steps(config.host.profile_steps, MAX_STEPS)  # the number of steps is known once corpora are open
  if not 0 <= config.train.ema < 1:
    raise UserError(f"train.ema={config.train.ema} must be at least 0 (no average) and below 1")
  _check_mesh(config, sharding.mesh_shape(config.mesh, num_devices))


def stream_sections(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
  """Yields (path in the configuration, section) of each corpus that a run trains on: config.data, then config.mix."""
  yield "data", config.data
  for name, section in config.mix.items():
    yield f"mix.{name}", section


def _check_lengths(config: ConfigDict) -> None:
  """Raises UserError for text and clips longer than their position embeddings, and for fields below their minimum."""
  positions = config.model.text.positions
  if config.data.text_length > positions:
    raise UserError(
      f"data.text_length={config.data.text_length} exceeds model.text.positions={positions}; use at most {positions}"
    )
  if config.model.temporal == "sequence" and config.data.num_frames > positions:
    raise UserError(
      f"data.num_frames={config.data.num_frames} exceeds model.text.positions={positions}, the number of frame"
      f" positions of model.temporal='sequence'; use at most {positions}"
    )
  for name, (minimum, maximum) in _RANGES.items():
    section, _, field = name.rpartition(".")
    value = config[section][field] if section else config[field]
    if value < minimum:
      raise UserError(f"{name}={value} must be at least {minimum}")
    if value > maximum:
      raise UserError(f"{name}={value} must be at most {maximum}")


def _check_duration(train: ConfigDict) -> None:
  """Raises UserError for a run without steps, or a fraction of them out of range."""
  if not train.epochs and not train.num_steps:
    raise UserError("train.epochs and train.num_steps are both 0; set one of them")
  if not 0 <= train.unmasked_fraction <= 1:
    raise UserError(f"train.unmasked_fraction={train.unmasked_fraction} must be at least 0 and at most 1 (all steps)")


def _check_mesh(config: ConfigDict, mesh_shape: Mapping[str, int]) -> None:
  """Raises UserError for batches, microbatches or attention heads that the mesh does not divide."""
  sharding.check_batch_size(config.train.batch_size, "train.batch_size", mesh_shape)
  sharding.check_batch_size(config.evaluate.batch_size, "evaluate.batch_size", mesh_shape)
  clips_per_device = config.train.batch_size // (mesh_shape[sharding.DATA] * mesh_shape[sharding.FSDP])
  if clips_per_device % config.train.num_microbatches:
    raise UserError(
      f"train.num_microbatches={config.train.num_microbatches} does not divide the {clips_per_device} clips per device"
      f" of train.batch_size={config.train.batch_size}; use a divisor of {clips_per_device}"
    )
  for tower in ("vision", "text"):
    if config.model[tower].heads % mesh_shape[sharding.TENSOR]:
      raise UserError(
        f"mesh.tensor={mesh_shape[sharding.TENSOR]} does not divide model.{tower}.heads={config.model[tower].heads};"
        " use a divisor of the heads of both towers"
      )


def _check_batch_bytes(batch: str, batch_size: int, section: str, num_frames: int, image_size: int) -> None:
  """Raises UserError for a batch of clips that exceeds any memory."""
  size = batch_size * num_frames * image_size**2 * 3 * 4
  if size > _MAX_BATCH_BYTES:
    raise UserError(
      f"a batch of {batch}.batch_size={batch_size} clips, {section}.num_frames={num_frames},"
      f" model.image_size={image_size} has {size / 2**40:.0f} TiB of pixels; reduce one of them"
    )


def _check_stream(section: str, stream: ConfigDict, loss: str) -> None:
  """Raises UserError for a corpus section that gives the loss no text, or whose numbers are out of range."""
  if stream.num_frames < 1:
    raise UserError(f"{section}.num_frames={stream.num_frames} must be at least 1")
  if stream.num_frames > MAX_FRAMES:
    raise UserError(f"{section}.num_frames={stream.num_frames} must be at most {MAX_FRAMES}")
  if not 0 < stream.fraction <= 1:
    raise UserError(f"{section}.fraction={stream.fraction} must be above 0 and at most 1 (all records)")
  if not 0 < stream.weight < float("inf"):
    raise UserError(f"{section}.weight={stream.weight} must be above 0 and finite; remove a corpus that is not used")
  texts = sorted({"subtitle", "caption"} & LOSSES[loss].uses)
  if not any(stream[text] for text in texts):
    fields = " or ".join(f"{section}.{text}" for text in texts)
    raise UserError(f"{section} has no text for loss={loss!r}; set {fields} to a text field of its records")
