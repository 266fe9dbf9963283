"""Versions of the code and packages that produce a result."""

import hashlib
import os
import pathlib
import platform

__version__ = "0.1.0"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain", "numpy")


def versions() -> dict[str, str]:
  """Returns the versions of this project, of Python and of the packages that affect numerical results."""
  import importlib.metadata  # late: not needed for __version__ alone

  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {"clipvip_jax": __version__, "python": platform.python_version(), **packages}


def code_digest() -> str:
  """Returns the first 16 hexadecimal digits of the SHA-256 of the package's source files.

  The digest of an installed wheel equals that of the clone it was built from, where folders of the package are links.
  """
  root = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  folders = [pathlib.Path(folder) for folder, _, _ in os.walk(root, followlinks=True)]
  for path in sorted(path for folder in folders for path in folder.glob("*.py")):
    digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
  return digest.hexdigest()[:16]
