"""Configurations of corpora and options of builds."""

import pytest

from clipvip_jax.data.engine.corpus_config import BuildOptions, CorpusConfig
from clipvip_jax.utils.errors import UserError


def test_content_settings_exclude_names_and_official_sizes():
  settings = CorpusConfig(name="a", description="text", sizes={"train": 3}, fps=3).content_settings()
  assert settings == {
    "decoder": "pyav", "fps": 3, "frames": 0, "jpeg_quality": 92, "min_frames": 2, "short_side": 256,
    "splits": ["train"],
  }  # fmt: skip


@pytest.mark.parametrize("name", ["", ".", "a/b", "../x", "-a", "a" * 101])
def test_rejects_names_that_are_not_folders(name):
  with pytest.raises(UserError, match=r"invalid configuration name .*; use at most 100 letters"):
    CorpusConfig(name=name).frame_settings()


@pytest.mark.parametrize(
  ("field", "value"),
  [("max_skipped", 1.1), ("max_skipped", float("nan")), ("max_missing_text", -0.1), ("decode_timeout", 0),
   ("decode_timeout", 1e9), ("clips_per_shard", -1)],
)  # fmt: skip
def test_rejects_options_out_of_range(field, value):
  with pytest.raises(UserError, match=rf"{field}={value} is out of range; use "):
    BuildOptions(**{field: value}).check()
