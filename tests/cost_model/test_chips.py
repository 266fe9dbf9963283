"""Chips and topologies."""

import importlib.util
import subprocess
import sys

import pytest
from optional_packages import needs_libtpu
from project_paths import ROOT

from clipvip_jax.cost_model import chips
from clipvip_jax.utils.errors import UserError


@pytest.mark.parametrize("name", chips.CHIPS)
def test_chip_is_found_by_its_device_kind(name):
  chip = chips.CHIPS[name]
  assert chips.chip_of_kind(chip.kind if chip.is_tpu else f"{chip.kind} 80GB HBM3") is chip
  assert chips.chip_of_kind("cpu") is None


@pytest.mark.parametrize(
  ("topology", "name", "count"),
  [
    ("v5e:4x8", "v5e", 32),
    ("v5p:2x2x4", "v5p", 16),
    ("h100:4", "h100", 4),
    ("a100:16", "a100", 16),
    ("tpu7x:2x2x1", "tpu7x", 8),
    ("b200:8", "b200", 8),
    ("gb200:144", "gb200", 144),
    ("h100:4096", "h100", 4096),
    ("v6e:16x16", "v6e", 256),
    ("v5p:16x20x28", "v5p", 8960),
    ("tpu7x:16x24x24", "tpu7x", 2 * 9216),
  ],
)
def test_topology_is_parsed(topology, name, count):
  assert chips.parse_topology(topology) == (chips.CHIPS[name], count)


@pytest.mark.parametrize(
  ("topology", "message"),
  [
    ("v9:4x8", "--topology=v9:4x8: unknown chip 'v9'; allowed: v5e:4x8, v5p:2x2x4, v6e:4x8, tpu7x:2x2x1, a100:8"),
    ("v5e", "--topology=v5e: unknown size; use one such as v5e:4x8"),
    ("v5e:2x2x2", "unknown size; use one such as v5e:4x8"),
    ("v5p:4x4", "unknown size; use one such as v5p:2x2x4"),
    ("h100:0", "unknown size; use one such as h100:8"),
    ("gb200:80", "80 is not divisible by nodes of 72 GPUs; use a multiple of 72"),
    ("tpu7x:4x4", "unknown size; use one such as tpu7x:2x2x1"),
    ("h100:4104", "4104 GPUs exceed the 4096 that can be simulated; use fewer"),
    ("gb200:7200000", "7200000 GPUs exceed the 4096"),
    ("tpu7x:2", "one such as tpu7x:2x2x1, tpu7x:2x2x4, tpu7x:2x2x2, tpu7x:2x4x4, tpu7x:4x4x4, tpu7x:4x4x8$"),
    ("v5e:16x17", "--topology=v5e:16x17: 272 chips exceed the 256 of the largest slice; use fewer"),
    ("v5p:100x100x100", "1000000 chips exceed the 8960 of the largest slice"),
    ("tpu7x:16x24x25", "9600 chips exceed the 9216"),
    ("h100:12", "12 is not divisible by nodes of 8 GPUs; use a multiple of 8"),
  ],
)
def test_unknown_topology_is_refused_with_those_allowed(topology, message):
  with pytest.raises(UserError, match=message):
    chips.parse_topology(topology)


def test_missing_libtpu_is_refused_with_the_command_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'jax\[tpu\]'"):
    chips.devices("v5e:2x2")


@needs_libtpu
def test_slices_of_one_chip_and_of_several_hosts_have_their_devices():
  code = "from clipvip_jax.cost_model import chips; "
  code += "print([len(chips.devices(x)) for x in ('v5e:1x1', 'v6e:1x1', 'v5e:2x2', 'v5p:2x2x3')])"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.stdout.strip() == "[1, 1, 4, 12]", done.stderr


@needs_libtpu
def test_mesh_axis_may_span_several_axes_of_a_slice():
  code = "from clipvip_jax.cost_model import chips; from clipvip_jax.distributed import sharding; "
  code += "devices = chips.devices('v6e:4x8'); "
  code += "print(dict(sharding.make_mesh({'data': -1, 'fsdp': 2, 'tensor': 1}, devices).shape))"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.stdout.strip() == "{'data': 16, 'fsdp': 2, 'tensor': 1}", done.stderr
