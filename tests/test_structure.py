"""Architecture: commands and rooms, one direction of imports, and the size of modules and functions."""

import ast

import pytest
from project_paths import ROOT

# Bottom up: a module imports its own layer and those before it.
LAYERS = (
  ("utils",),
  ("models", "input_pipeline", "distributed", "tracking"),
  ("runs",),
  ("weights",),
  ("inference", "captioning"),
  ("evaluation", "transcription"),
  ("reporting",),
  ("training",),
  ("cost_model",),
)
ROOMS = [room for layer in LAYERS for room in layer]
COMMANDS = {
  "__init__",
  "__main__",
  "caption",
  "classify",
  "compare",
  "convert",
  "data_tool",
  "embed",
  "evaluate",
  "language_gap",
  "main",
  "preflight",
  "search",
  "study",
  "subtitle",
}
# Packages in folders of their own, and what of the project each may import. Symbolic links in clipvip_jax/ make the
# first two its packages: an installation must not occupy names as general as `data`.
LINKED = ("configs", "data")
OUTSIDE = {
  "clipvip_jax.configs": {"clipvip_jax.configs"},
  # A launcher runs where nothing is installed.
  "launch": {"launch", "clipvip_jax.utils"},
  # A builder needs no model; the pipeline opens a corpus by its name, without an import.
  "clipvip_jax.data": {"clipvip_jax.data", "clipvip_jax.input_pipeline", "clipvip_jax.utils"},
}
# Rooms of one layer do not import each other, and these may import what lies outside of the package.
REACH = {
  "clipvip_jax.captioning.cleaning": {"clipvip_jax.data.engine"},
  "clipvip_jax.captioning.frame_sources": {"clipvip_jax.data"},
  "clipvip_jax.evaluation.class_list": {"clipvip_jax.data.engine"},
  "clipvip_jax.evaluation.evaluation_config": {"clipvip_jax.configs"},
  "clipvip_jax.evaluation.language_gap": {"clipvip_jax.data.engine"},
  "clipvip_jax.evaluation.labelled_videos": {"clipvip_jax.data.engine"},
  "clipvip_jax.inference.filters": {"clipvip_jax.data.engine"},
  "clipvip_jax.training.model_sizes": {"clipvip_jax.configs"},
  "clipvip_jax.data_tool": {"clipvip_jax.data"},
}


def modules():
  for top in ("clipvip_jax", "launch", *LINKED):
    for path in sorted((ROOT / top).rglob("*.py")):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
      yield (f"clipvip_jax.{name}" if top in LINKED else name), path


MODULES = dict(modules())


def imports(path):
  """The project's modules that a file imports, anywhere in it: lazy imports and those for type checkers included."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
      if name.split(".")[0] in ("clipvip_jax", "launch", *LINKED):
        yield name if name in MODULES else name.rpartition(".")[0]


def within(name, prefix):
  return name == prefix or name.startswith(prefix + ".")


def allowed(module):
  """Prefixes of the modules that `module` may import."""
  for package, reach in OUTSIDE.items():
    if within(module, package):
      return reach
  _, *rest = module.split(".")
  if not rest or rest[0] in COMMANDS:
    return {"clipvip_jax", *REACH.get(module, ())}
  number = next(i for i, layer in enumerate(LAYERS) if rest[0] in layer)
  below = [room for layer in LAYERS[:number] for room in layer]
  return {f"clipvip_jax.{room}" for room in (rest[0], *below)} | REACH.get(module, set())


def test_top_level_holds_the_commands_and_the_rooms():
  top = ROOT / "clipvip_jax"
  assert {path.stem for path in top.glob("*.py")} == COMMANDS
  assert {path.parent.name for path in top.glob("*/__init__.py")} == {*ROOMS, *LINKED}
  assert all((top / name).resolve() == ROOT / name for name in LINKED)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
  wrong = [name for name in imports(MODULES[module]) if not any(within(name, prefix) for prefix in allowed(module))]
  assert not wrong, f"{module} imports {wrong}"


def test_imports_have_no_cycle():
  graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
  done = set()

  def visit(module, trail):
    assert module not in trail, f"cycle: {' -> '.join([*trail[trail.index(module) :], module])}"
    if module not in done:
      for name in sorted(graph.get(module, ())):
        visit(name, [*trail, module])
      done.add(module)

  for module in sorted(graph):
    visit(module, [])


def test_commands_import_no_command():
  for name in COMMANDS - {"__init__"}:
    wrong = {f"clipvip_jax.{other}" for other in COMMANDS} & set(imports(MODULES[f"clipvip_jax.{name}"]))
    assert not wrong, f"{name} imports {wrong}"


def mirror(name):
  """The file with the tests of a module in a room."""
  _, *rooms, module = name.split(".")
  return ROOT.joinpath("tests", *rooms, f"test_{module}.py")


def test_tests_mirror_rooms():
  missing = []
  for name, path in MODULES.items():
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    is_builder = within(name, "clipvip_jax.data") and not within(name, "clipvip_jax.data.engine")
    has_room = len(path.relative_to(ROOT).parts) == 3 and not is_builder
    if has_room and functions(tree) and len(text.splitlines()) > 40 and not mirror(name).exists():
      missing.append(f"{name}: {mirror(name)}")
  assert not missing, "modules without tests:\n" + "\n".join(missing)


MAX_MODULE_LINES = 320
MAX_FUNCTION_LINES = 55
MAX_PARAMETERS = 8
FORBIDDEN_FIRST_WORDS = {"What", "Which", "How", "Where", "Who", "That"}
# `load` is called with keywords: its options are independent of each other.
KEYWORD_FUNCTIONS = {"clipvip_jax.inference.load_model.load"}


def functions(tree):
  return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_docstring_is_a_noun_phrase_or_an_imperative(module):
  text = MODULES[module].read_text(encoding="utf-8")
  if not text.strip():
    return  # an empty __init__.py has nothing to document
  docstring = ast.get_docstring(ast.parse(text))
  assert docstring, f"{module} has no docstring; say in one line what the module is"
  first = docstring.split()[0].strip(",.:;")
  assert first not in FORBIDDEN_FIRST_WORDS, (
    f"the docstring of {module} begins with {first!r}; begin with what the module is or does: 'Atomic file writes.'"
  )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_functions_are_short(module):
  text = MODULES[module].read_text(encoding="utf-8")
  lines = len(text.splitlines())
  assert lines <= MAX_MODULE_LINES, f"{module} has {lines} lines; split it (at most {MAX_MODULE_LINES})"
  for node in functions(ast.parse(text)):
    lines = node.end_lineno - node.lineno + 1
    assert lines <= MAX_FUNCTION_LINES, (
      f"{module}:{node.lineno} {node.name} has {lines} lines; extract functions (at most {MAX_FUNCTION_LINES})"
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_functions_have_few_parameters(module):
  for node in functions(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    count = len([name for name in names if name not in ("self", "cls")])
    if f"{module}.{node.name}" in KEYWORD_FUNCTIONS:
      continue
    assert count <= MAX_PARAMETERS, (
      f"{module}:{node.lineno} {node.name} takes {count} parameters; group them (at most {MAX_PARAMETERS})"
    )
