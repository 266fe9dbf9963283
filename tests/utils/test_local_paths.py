"""Refusal of addresses of object stores."""

import pathlib

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.local_paths import require_local_path


@pytest.mark.parametrize(
  "path", ["build/run", "/shared/a:b//c", "~/run", "gs:/bucket", pathlib.Path("gs://bucket"), ""]
)
def test_local_paths_pass(path):
  require_local_path(path, "--workdir")


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://bucket", "https://host/x", "hf://owner/name"])
def test_addresses_are_refused_with_flag_and_remedy(path):
  with pytest.raises(UserError, match=rf"^--workdir={path} is not a local path; mount the bucket"):
    require_local_path(path, "--workdir")


def test_the_message_is_one_line():
  with pytest.raises(UserError, match=r"--workdir=gs://a\\nb is not"):
    require_local_path("gs://a\nb", "--workdir")
