"""The project's own promises: the lock, and dependencies that each have a reason."""

import ast
import re
import sys

from project_paths import ROOT


def requirements(name):
  lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
  return [line for line in lines if line.strip() and not line.startswith(("#", "-r"))]


def package(line):
  return re.split(r"[=<>;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")


def test_every_direct_dependency_has_a_reason_and_is_locked():
  locked = {package(line) for line in requirements("requirements.lock")}
  for line in requirements("requirements.txt") + requirements("requirements-dev.txt"):
    assert "#" in line, f"{line}: why?"
    assert package(line) in locked, f"{line}: run make lock"


def test_the_lock_pins_exact_versions():
  assert all(re.match(r"[A-Za-z0-9_.-]+==[^ ]+", line) for line in requirements("requirements.lock"))


# Packages whose import has another name; an extra in brackets is one of ours.
IMPORTED_AS = {
  "absl-py": "absl",
  "array-record": "array_record",
  "opencv-python-headless": "cv2",
  "orbax-checkpoint": "orbax",
  "pillow": "PIL",
}
# Needed without an import: clu writes TensorBoard files through it.
USED_BY_OTHERS = {"tensorboard", "tensorflow-cpu"}


def test_what_is_imported_is_what_is_declared():
  imported = set()
  for top in ("clipvip_jax", "configs", "data", "launch"):
    for path in (ROOT / top).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
          imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
          imported.add(node.module.split(".")[0])
  imported -= {*sys.stdlib_module_names, "clipvip_jax", "configs", "data", "launch"}
  declared = {package(line) for line in requirements("requirements.txt")}
  names = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in declared - USED_BY_OTHERS}
  assert names == imported
