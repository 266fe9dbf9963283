"""Imports point one way: what stands lower never imports what stands higher."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# What the modules under a prefix may import of the project; the longest prefix counts.
ALLOWED = {
  "clipvip_jax": {"clipvip_jax"},  # what is not named below puts the parts together
  "clipvip_jax.data_tool": {"clipvip_jax", "data"},  # a command of the corpora
  "clipvip_jax.evaluated": {"clipvip_jax", "configs"},  # a corpus' recipe says what a command does not
  "clipvip_jax.errors": set(),
  "clipvip_jax.files": set(),
  "clipvip_jax.log": set(),
  "clipvip_jax.models": {"clipvip_jax.models", "clipvip_jax.errors"},
  "clipvip_jax.losses": set(),
  "clipvip_jax.charts": set(),
  "clipvip_jax.curves": {"clipvip_jax.charts"},
  "clipvip_jax.pages": {"clipvip_jax.errors", "clipvip_jax.files"},
  "clipvip_jax.retrieval": {"clipvip_jax.errors"},
  "clipvip_jax.published_results": {"clipvip_jax.retrieval"},
  "clipvip_jax.uncertainty": set(),
  "clipvip_jax.npz": {"clipvip_jax.errors", "clipvip_jax.files"},
  "clipvip_jax.embeddings": {"clipvip_jax.errors", "clipvip_jax.npz"},
  "clipvip_jax.optimizer": {"clipvip_jax.errors"},
  "clipvip_jax.sharding": {"clipvip_jax.errors"},
  "clipvip_jax.weights": {
    "clipvip_jax.weights",
    "clipvip_jax.models",
    "clipvip_jax.checkpoint",  # a run is a source of weights
    "clipvip_jax.errors",
    "clipvip_jax.files",
    "clipvip_jax.log",
  },
  "clipvip_jax.input_pipeline": {
    "clipvip_jax.input_pipeline",
    "clipvip_jax.errors",
    "clipvip_jax.files",
    "clipvip_jax.log",
  },
  "clipvip_jax.train_step": {
    "clipvip_jax.losses",
    "clipvip_jax.models",
    "clipvip_jax.optimizer",
    "clipvip_jax.sharding",
  },
  "configs": {"configs"},
  # What starts a run elsewhere needs nothing of it here, not even the installed packages.
  "launch": {"launch", "clipvip_jax.command", "clipvip_jax.errors"},
  # A corpus needs no model; the pipeline opens it by the name that a recipe gives, without an import.
  "data": {
    "data",
    "clipvip_jax.input_pipeline",
    "clipvip_jax.errors",
    "clipvip_jax.files",
    "clipvip_jax.log",
    "clipvip_jax.progress",
  },
}


def modules():
  for top in ("clipvip_jax", "configs", "data", "launch"):
    for path in sorted((ROOT / top).rglob("*.py")):
      yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path):
  """Names of the project's modules that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: relative imports are not used here"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    yield from (name for name in names if name.split(".")[0] in ("clipvip_jax", "configs", "data", "launch"))


def within(name, prefix):
  return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda x: x if isinstance(x, str) else "")
def test_imports_point_down(module, path):
  rules = [prefix for prefix in ALLOWED if within(module, prefix)]
  allowed = ALLOWED[max(rules, key=len)]
  wrong = [name for name in imports(path) if not any(within(name, prefix) for prefix in allowed)]
  assert not wrong, f"{module} imports {wrong}"


def test_every_rule_is_about_a_module_that_exists():
  names = [module for module, _ in modules()]
  assert all(any(within(name, prefix) for name in names) for prefix in ALLOWED)
