"""Installs this project into the running Python, with JAX for the runtime's accelerator.

The first cell of each notebook runs this file in its kernel, from the folder of the clone. A JAX that already uses the
accelerator, in a version that the project accepts, is kept. JAX_PLATFORMS=cpu leaves an accelerator unused.

Raises RuntimeError if pip fails, if JAX does not use the accelerator, or if the kernel has imported a package that was
replaced.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata

from packaging.requirements import Requirement  # every kernel has it: ipykernel requires it
from packaging.utils import canonicalize_name

PROJECT = "clipvip-jax"
PROBE = "import json, jax; print(json.dumps([jax.default_backend(), [str(device) for device in jax.devices()]]))"
GOOGLE_PCI_VENDOR = "0x1ae0"
REPLACED = "CLIPVIP_JAX_REPLACED"  # set in this process, so that the cell fails until the kernel is restarted


@dataclasses.dataclass(frozen=True)
class Jax:
  """JAX in a new process: version, "" if it is not installed; backend "cpu", "gpu" or "tpu", "" if it fails."""

  version: str
  backend: str
  devices: str


def find_accelerator(root: pathlib.Path = pathlib.Path("/"), environ: Mapping[str, str] = os.environ) -> str:
  """Returns the backend that fits the runtime, "tpu", "gpu" or "cpu", by its devices and environment."""
  if environ.get("JAX_PLATFORMS") == "cpu":
    return "cpu"
  is_google = any(GOOGLE_PCI_VENDOR in path.read_text() for path in root.glob("sys/bus/pci/devices/*/vendor"))
  if (
    environ.get("TPU_ACCELERATOR_TYPE")
    or environ.get("COLAB_TPU_ADDR")
    or any(root.glob("dev/accel[0-9]*"))
    or (is_google and any(root.glob("dev/vfio/[0-9]*")))
  ):
    return "tpu"
  return "gpu" if any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl", "dxg")) else "cpu"


def read_cuda_version() -> int:
  """Returns the newest major version of CUDA that the driver supports; 13 if nvidia-smi does not state it."""
  try:
    text = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout
  except (OSError, subprocess.CalledProcessError):
    return 13
  match = re.search(r"CUDA Version: (\d+)", text)
  return int(match[1]) if match else 13


def plan_installation(
  wanted: Requirement, accelerator: str, jax: Jax, versions: Mapping[str, str], cuda: int
) -> tuple[list[str], list[str]]:
  """Decides what pip installs and uninstalls.

  Args:
    wanted: the project's requirement of JAX.
    accelerator: see `find_accelerator`.
    jax: the installed JAX.
    versions: {package: version} of the installed packages.
    cuda: major version that the driver supports.

  Returns:
    Arguments of `pip install`, and of `pip uninstall` before: plugins of JAX that do not fit the version to come.
  """
  is_accepted = bool(jax.version) and wanted.specifier.contains(jax.version)
  pins = [f"{name}=={versions[name]}" for name in ("jax", "jaxlib") if is_accepted and name in versions]
  if is_accepted and jax.backend == accelerator:
    return ["--editable", ".", *pins], []
  extra, plugin = {
    "tpu": ("[tpu]", "libtpu"),
    "gpu": ("[cuda]", "jax-cuda13-") if cuda >= 13 else ("[cuda12]", "jax-cuda12-"),
    "cpu": ("", "none"),
  }[accelerator]
  plugins = [name for name in versions if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)|libtpu", name)]
  return ["--editable", f".{extra}", *pins], [name for name in plugins if not name.startswith(plugin)]


def read_versions() -> dict[str, str]:
  """Returns {package: version} of what is installed; the metadata that a build leaves in the clone do not count."""
  path = [entry for entry in sys.path if entry and pathlib.Path(entry).resolve() != pathlib.Path.cwd()]
  return {canonicalize_name(dist.name): dist.version for dist in metadata.distributions(path=path)}


def find_replaced_imports(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
  """Returns "NAME OLD -> NEW" of the packages that were replaced although this process has imported them."""
  files = {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
  return [
    f"{name} {version} -> {after[name]}"
    for name, version in before.items()
    if after.get(name, version) != version
    and any(os.fspath(metadata.distribution(name).locate_file(file)) in files for file in metadata.files(name) or ())
  ]


def probe(versions: Mapping[str, str]) -> Jax:
  """Starts JAX in a process of its own: a TPU serves one process at a time, so the kernel must not occupy it."""
  if "jax" not in versions:
    return Jax("", "", "")
  done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd="/")
  if done.returncode:
    return Jax(versions["jax"], "", done.stderr.strip().rpartition("\n")[2])
  backend, devices = json.loads(done.stdout.splitlines()[-1])
  return Jax(versions["jax"], backend, ", ".join(devices))


def run_pip(*arguments: str) -> None:
  """Runs pip for this Python.

  Raises:
    RuntimeError: pip fails; with its last lines.
  """
  command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise RuntimeError(f"{' '.join(command)} failed:\n" + "\n".join(done.stderr.strip().splitlines()[-8:]))


def main() -> None:
  """Installs what is missing, checks JAX, and prints what the runtime has.

  Raises:
    RuntimeError: see the top of this file.
  """
  # The kernel and the commands that it starts share a GPU.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  accelerator, before = find_accelerator(), read_versions()
  versions, jax = before, probe(before)
  if PROJECT not in versions or jax.backend != accelerator:
    lines = pathlib.Path("requirements.txt").read_text(encoding="utf-8").splitlines()
    (wanted,) = (Requirement(line.split("#")[0]) for line in lines if re.match(r"jax\W", line))
    install, uninstall = plan_installation(wanted, accelerator, jax, before, read_cuda_version())
    print("Installing the project: this takes a few minutes once per runtime.")
    if uninstall:
      run_pip("uninstall", "--yes", *uninstall)
    run_pip("install", *install)
    importlib.invalidate_caches()
    versions = read_versions()
    jax = probe(versions)
  if (folder := os.fspath(pathlib.Path.cwd())) not in sys.path:
    sys.path.insert(0, folder)  # a running Python does not notice an editable installation
  print(f"Python {sys.version.split()[0]}, JAX {jax.version}, {PROJECT} {versions[PROJECT]}")
  print(f"{jax.backend or 'no backend'}: {jax.devices}")
  if jax.backend != accelerator:
    raise RuntimeError(
      f"the runtime has a {accelerator.upper()}, but JAX uses {jax.backend or 'nothing'} ({jax.devices}); restart the "
      "runtime and run this cell again, or set JAX_PLATFORMS=cpu to do without it"
    )
  if replaced := os.environ.get(REPLACED) or ", ".join(find_replaced_imports(before, versions)):
    os.environ[REPLACED] = replaced
    raise RuntimeError(
      f"packages that this kernel has imported were replaced ({replaced}); restart the kernel (Colab: Runtime > "
      "Restart session) and run this cell again"
    )


if __name__ == "__main__":
  main()
