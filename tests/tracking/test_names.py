"""host.tracker: names of trackers, and those that cannot be used."""

import sys

import pytest

from clipvip_jax.tracking import names
from clipvip_jax.utils.errors import UserError


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ("tensorboard", ["tensorboard"]),
    ("tensorboard, odd_trackers:Recorder", ["tensorboard", "odd_trackers:Recorder"]),
    ("", []),
    (" ", []),
  ],
)
def test_parses_names(value, expected):
  assert names.parse_names(value) == expected


ALLOWED = r'use tensorboard, wandb, mlflow, MODULE:CLASS, several separated by commas, or "" for none'


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ("tensorbord", r"'tensorbord' is unknown; " + ALLOWED),
    ("tensorboard,", r"'' is unknown; " + ALLOWED),
    ("tensorboard,tensorboard", r"names 'tensorboard' twice; name it once"),
    ("no_such_module:Class", r"'no_such_module:Class' cannot be imported \(No module named 'no_such_module'\); use"),
    ("odd_trackers:Missing", r"cannot be imported \(module 'odd_trackers' has no attribute 'Missing'\); use"),
    (":Class", r"':Class' cannot be imported \(.+\); use"),
    (
      "odd_trackers:function",
      r"'odd_trackers:function' is not a subclass of clipvip_jax\.tracking\.tracker\.Tracker; ",
    ),
    ("odd_trackers:Incomplete", r"lacks the methods finish, log_metrics, log_results of Tracker; define them"),
  ],
)
def test_rejects_other_names(value, message):
  with pytest.raises(UserError, match=rf"^host\.tracker.*{message}"):
    names.parse_names(value)


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_named(package, monkeypatch, tmp_path):
  (tmp_path / package).mkdir()  # as wandb's files in the working directory
  monkeypatch.setattr("sys.path", [str(tmp_path)])
  monkeypatch.delitem(sys.modules, package, raising=False)
  with pytest.raises(UserError, match=rf"needs the package {package}, which is not installed; pip install {package}"):
    names.parse_names(f"tensorboard,{package}")
