"""The private parts of JAX: present in the installed version, and named where one is missing."""

import importlib.metadata
import re
import signal
import socket
import subprocess
import sys

import jax
import pytest
from ports import reserve_port
from project_paths import ROOT

from clipvip_jax.distributed import jax_internals
from clipvip_jax.utils import cli
from clipvip_jax.utils.errors import UserError


def test_the_installed_jax_is_compatible():
  jax_internals.check_compatibility()


def test_the_supported_versions_are_those_of_the_requirements():
  assert jax_internals.SUPPORTED_JAX in (ROOT / "requirements.txt").read_text().split()


class Binding:
  """A C++ binding whose signature lacks an argument."""

  __doc__ = "get_distributed_runtime_service(address: str, num_nodes: int) -> DistributedRuntimeService"


@pytest.mark.parametrize(
  ("module", "attribute", "value", "problem"),
  [
    ("jax._src.distributed", "global_state", None, "has no jax._src.distributed.global_state.client"),
    ("jax._src.lib._jax", "DistributedRuntimeClient", None, "has no .*DistributedRuntimeClient.key_value_set"),
    ("jax._src.lib._jax", "get_distributed_runtime_service", Binding, "has no argument 'cluster_register_timeout'"),
  ],
)
def test_an_incompatible_jax_is_named_with_the_missing_part_and_the_remedy(
  monkeypatch, module, attribute, value, problem
):
  monkeypatch.setattr(f"{module}.{attribute}", value)
  monkeypatch.setattr(jax, "__version__", "0.99.0")
  with pytest.raises(UserError, match=f"^jax 0.99.0 {problem}.*pip install 'jax>=0.10,<0.12'$"):
    jax_internals.check_compatibility()


def test_a_jax_without_the_private_module_is_incompatible(monkeypatch):
  monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
  with pytest.raises(UserError, match=f"^jax {re.escape(importlib.metadata.version('jax'))} has no jax._src"):
    jax_internals.check_compatibility()


def test_only_the_adapters_import_private_modules():
  pattern = re.compile(r"^\s*(from|import) (jax|jaxlib|flax|optax|orbax)\S*\._\w+", re.MULTILINE)
  folders = ("clipvip_jax", "configs", "data", "launch", "benchmarks")
  files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
  users = {path.name for path in files if pattern.search(path.read_text(encoding="utf-8"))}
  assert users == {"jax_internals.py"}
  assert [path.name for path in files if "orbax.checkpoint._src" in path.read_text()] == ["orbax_internals.py"]


@pytest.mark.parametrize("reachable", [False, True])
def test_an_abort_names_process_0_only_if_it_cannot_be_reached(reachable):
  port = reserve_port()
  with socket.socket() as process_0:
    if reachable:
      process_0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
      process_0.bind(("127.0.0.1", port))
      process_0.listen()
    code = "import os\nfrom clipvip_jax.distributed import jax_internals\n"
    code += f"jax_internals.exit_when_process_0_dies(3, 'localhost:{port}', {cli.EXIT_HUNG})\nos.abort()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  if reachable:
    assert done.returncode == -signal.SIGABRT and "Current thread" in done.stderr and "process 0" not in done.stderr
  else:
    assert done.returncode == cli.EXIT_HUNG
    assert done.stderr.startswith("error: process 3: process 0, the coordinator of this launch, died")
