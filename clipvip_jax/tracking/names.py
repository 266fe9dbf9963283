"""Trackers by name: those of this project, and MODULE:CLASS."""

import importlib
import importlib.util
import inspect

from clipvip_jax.tracking.tracker import Tracker
from clipvip_jax.utils.errors import UserError, first_line

TENSORBOARD = "tensorboard"
_CLASSES = {
  TENSORBOARD: "clipvip_jax.tracking.tensorboard:EventWriter",
  "wandb": "clipvip_jax.tracking.wandb_tracker:WandbTracker",
  "mlflow": "clipvip_jax.tracking.mlflow_tracker:MlflowTracker",
}
_OPTIONAL_PACKAGES = ("wandb", "mlflow")  # which the trackers of the same name import
_ALLOWED = f'use {", ".join(_CLASSES)}, MODULE:CLASS, several separated by commas, or "" for none'


def parse_names(value: str) -> list[str]:
  """Returns the trackers that `host.tracker` names, after checking that each can be used here.

  Imports the module of a MODULE:CLASS.

  Raises:
    UserError: a tracker is unknown, repeated or not a `Tracker`, or its package is not installed.
  """
  names = [name.strip() for name in value.split(",")] if value.strip() else []
  for index, name in enumerate(names):
    if name in names[:index]:
      raise UserError(f"host.tracker={value!r} names {name!r} twice; name it once")
    if name in _OPTIONAL_PACKAGES and not _is_installed(name):
      raise UserError(f"host.tracker={value!r} needs the package {name}, which is not installed; pip install {name}")
    load_class(name)
  return names


def load_class(name: str) -> type[Tracker]:
  """Returns the class of a tracker; the packages of ours are imported by `Tracker.start`.

  Raises:
    UserError: there is no such class, or it lacks methods of `Tracker`.
  """
  module, _, attribute = _CLASSES.get(name, name).partition(":")
  if not attribute:
    raise UserError(f"host.tracker: {name!r} is unknown; {_ALLOWED}")
  try:
    tracker = getattr(importlib.import_module(module), attribute)
  except Exception as error:  # a module of the user, which may raise anything
    raise UserError(f"host.tracker: {name!r} cannot be imported ({first_line(error)}); {_ALLOWED}") from error
  if not (inspect.isclass(tracker) and issubclass(tracker, Tracker)):
    raise UserError(
      f"host.tracker: {name!r} is not a subclass of clipvip_jax.tracking.tracker.Tracker; derive it from it"
    )
  if missing := sorted(getattr(tracker, "__abstractmethods__", ())):
    raise UserError(f"host.tracker: {name!r} lacks the methods {', '.join(missing)} of Tracker; define them")
  return tracker


def _is_installed(package: str) -> bool:
  spec = importlib.util.find_spec(package)
  return spec is not None and spec.origin is not None  # None for a folder of that name, such as wandb's own
