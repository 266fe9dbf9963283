"""The interface of a tracker, as the documentation describes it."""

import re
import textwrap

from project_paths import ROOT

from clipvip_jax.tracking.open_trackers import open_trackers


def test_the_example_of_the_documentation_is_a_tracker(tmp_path, monkeypatch):
  text = (ROOT / "docs" / "training.md").read_text()
  code = re.search(r"^    from clipvip_jax\.tracking.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)[0]
  (tmp_path / "example.py").write_text(textwrap.dedent(code))
  monkeypatch.syspath_prepend(tmp_path)
  with open_trackers(["example:Print"], tmp_path, {}, 0) as tracker:
    tracker.log_metrics(1, {"train/loss": 2.0})
  assert (tmp_path / "curves.txt").read_text() == "1 {'train/loss': 2.0}\n"
