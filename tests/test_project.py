"""The project's own promises: the lock, and dependencies that each have a reason."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent


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
