"""Project-wide rules: pinned dependencies with a reason, and documentation that mentions only what exists."""

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib

import pytest
from ml_collections import ConfigDict
from project_paths import GOLDEN, ROOT

import clipvip_jax
from clipvip_jax.configs import common, fine_tuning, post_pretrain


def requirements(name):
  lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
  return [line for line in lines if line.strip() and not line.startswith(("#", "-r"))]


def package(line):
  return re.split(r"[=<>;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")


def test_every_direct_dependency_has_a_reason_and_is_locked():
  locked = {package(line) for line in requirements("requirements.lock")}
  for line in requirements("requirements.txt") + requirements("requirements-dev.txt"):
    assert "#" in line, f"requirement {line!r} has no reason; add one behind a #"
    assert package(line) in locked, f"requirement {line!r} is not in requirements.lock; run make lock"


def test_the_lock_pins_exact_versions():
  assert all(re.match(r"[A-Za-z0-9_.-]+==[^ ]+", line) for line in requirements("requirements.lock"))


PYTHONS = ("3.11", "3.12", "3.13")


def test_supported_pythons_are_the_same_everywhere():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
  assert project["project"]["requires-python"] == ">=3.11,<3.14"
  prefix = "Programming Language :: Python :: "
  versions = [name.removeprefix(prefix) for name in project["project"]["classifiers"] if name.startswith(prefix)]
  assert tuple(versions) == PYTHONS
  for name, pythons in (
    ("Makefile", "SUPPORTED := " + " ".join(f"python{version}" for version in reversed(PYTHONS))),
    ("Makefile", "(3, 11) <= sys.version_info[:2] <= (3, 13)"),
    (".github/workflows/ci.yml", 'python: ["3.11", "3.12", "3.13"]'),
    ("README.md", "Python 3.11, 3.12 or 3.13"),
  ):
    assert pythons in (ROOT / name).read_text(encoding="utf-8"), f"{name} does not contain {pythons!r}"


@pytest.mark.parametrize(
  ("program", "version", "refused"),
  [
    ("-m", "3, 10", True),
    ("-m", "3, 14", True),
    ("-m", "3, 11", False),
    ("-m", "3, 13", False),
    ("x.py", "3, 10", False),
  ],
)
def test_a_command_of_an_unsupported_python_is_refused_in_one_line(program, version, refused):
  """`python -m` sets the first argument to -m while it imports the package; launchers and scripts do not."""
  code = f"import sys; sys.argv, sys.version_info = [{program!r}], ({version}, 1); import clipvip_jax"
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  message = f"error: Python {sys.version.split()[0]} is not supported; use Python 3.11, 3.12 or 3.13\n"
  assert (result.returncode, result.stderr) == ((2, message) if refused else (0, ""))


# Distribution name -> name of its import, where they differ.
IMPORTED_AS = {
  "absl-py": "absl",
  "array-record": "array_record",
  "opencv-python-headless": "cv2",
  "orbax-checkpoint": "orbax",
  "pillow": "PIL",
  "scikit-learn": "sklearn",
}


# Imported where a user asks for it; its requirement PyTorch is larger than all of this project's.
UNDECLARED = {"mteb", "fsspec", "google_crc32c", "google"}  # the last three come with etils[epath] and gcsfs

# Imported by fsspec, for the scheme of a URL.
BY_FSSPEC = {"gcsfs", "s3fs"}


def test_imported_packages_are_the_declared_ones():
  imported = set()
  for top in ("clipvip_jax", "configs", "data", "launch"):
    for path in (ROOT / top).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
          imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
          imported.add(node.module.split(".")[0])
  imported -= {*sys.stdlib_module_names, "clipvip_jax", "configs", "data", "launch"}
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
  optional = [line for lines in extras.values() for line in lines]
  declared = {package(line) for line in requirements("requirements.txt") + optional}
  names = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in declared}
  assert names | BY_FSSPEC == (imported - UNDECLARED) | BY_FSSPEC


# The CHANGELOG is exempt from all but links: it lists old names.
PAGES = sorted(
  [ROOT / "README.md", ROOT / "CONTRIBUTING.md", GOLDEN / "README.md", *(ROOT / "docs").rglob("*.md")],
  key=str,
)
PACKAGES = ("clipvip_jax", "configs", "data", "launch", "benchmarks")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_point_to_existing_files(page):
  links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
  missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
  assert not missing, f"{page.name} links to missing files: {missing}"


def anchors(page):
  """Anchors of a page's headings, as GitHub and MkDocs derive them."""
  headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
  return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page
def test_anchors_of_links_are_headings(page):
  links = re.findall(r"\]\(([\w./-]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
  missing = [
    f"{name}#{anchor}" for name, anchor in links if anchor not in anchors((page.parent / name) if name else page)
  ]
  assert not missing, f"{page.name} links to missing headings: {missing}"


def test_paths_mentioned_in_documentation_and_code_exist():
  sources = [path for top in PACKAGES for path in (ROOT / top).rglob("*.py")]
  tops = "|".join((*PACKAGES, "tests", "docs", "colabs"))
  pattern = re.compile(r"(?<![\w./{}-])(?:" + tops + r")/[\w/]+\.(?:py|md|ipynb|jinja|npz)\b")
  missing = [
    f"{path.relative_to(ROOT)}: {mention}"
    for path in [*PAGES, *sources, ROOT / "Makefile"]
    for mention in pattern.findall(path.read_text(encoding="utf-8"))
    if not {"NAME", "MODULE", "ROOM"} & set(re.split(r"[/_.]", mention)) and not (ROOT / mention).exists()
  ]
  assert not missing, "mentions of files that do not exist:\n" + "\n".join(missing)


def exists(dotted: str) -> bool:
  """Whether a dotted name is a module, or an attribute of one."""
  parts = dotted.split(".")
  for length in range(len(parts), 0, -1):
    path = ROOT.joinpath(*parts[:length])
    if path.with_suffix(".py").exists() or (path / "__init__.py").exists() or (length == 1 and path.is_dir()):
      if length == len(parts):
        return True
      value = importlib.import_module(".".join(parts[:length]))
      for name in parts[length:]:
        if not hasattr(value, name):
          return False
        value = getattr(value, name)
      return True
  return False


@each_page
def test_modules_and_names_mentioned_in_documentation_exist(page):
  text = page.read_text(encoding="utf-8")
  mentions = set(re.findall(r"(?<![\w./-])(?:clipvip_jax|launch|benchmarks)(?:\.\w+)+\b(?![/(])", text))
  missing = sorted(name for name in mentions if not name.endswith((".md", ".py")) and not exists(name))
  assert not missing, f"{page.name} mentions modules or names that do not exist: {missing}"


def has_field(config: ConfigDict, dotted: str) -> bool:
  """Whether a config has the field; entries of `mix` and multipliers have names of their own."""
  section, *rest = dotted.split(".")
  if section == "mix":
    return not rest[1:] or rest[1] in common.mix_corpus()
  return section in config and (not rest or section == "loss" or has_field(config[section], ".".join(rest)))


@each_page
def test_config_fields_mentioned_in_documentation_exist(page):
  text = page.read_text(encoding="utf-8")
  mentions = set(re.findall(r"(?:--|`)config\.(?!json)([a-z]\w*(?:\.\w+)*)", text))
  mentions |= set(re.findall(r"\b((?:train|model|data|optimizer|host|mesh|evaluate)\.[a-z]\w+)=", text))
  missing = sorted(name for name in mentions if not has_field(common.base(), name))
  assert not missing, f"{page.name} mentions config fields that do not exist: {missing}"


@each_page
def test_recipes_and_variants_mentioned_in_documentation_exist(page):
  pattern = r"(?:configs/|--config=)(\w+)(?:\.py)?:([\w,%]+)"
  for recipe, arg in re.findall(pattern, page.read_text(encoding="utf-8")):
    importlib.import_module(f"clipvip_jax.configs.{recipe}").get_config(arg)  # raises on an unknown variant


@functools.cache
def defined_flags() -> frozenset[str]:
  """Every flag of a command, a launcher or a benchmark, and the fields of `data_tool build`, which become flags."""
  flags: set[str] = set()
  for top in ("clipvip_jax", "launch", "benchmarks", "data"):
    for path in (ROOT / top).rglob("*.py"):
      text = path.read_text(encoding="utf-8")
      flags |= set(re.findall(r"""["']--([a-z][\w-]*)["']""", text))
      flags |= set(re.findall(r"""DEFINE_\w+\(\s*["'](\w+)["']""", text))
      if path.is_relative_to(ROOT / "data"):
        flags |= set(re.findall(r"^  (\w+): ", text, flags=re.MULTILINE))  # dataclass fields
  return frozenset(flags)


@each_page
def test_flags_mentioned_in_documentation_exist(page):
  text = page.read_text(encoding="utf-8")
  commands = re.findall(r"python -m (?:clipvip_jax|launch)\.(?:[^\n]*\\\n)*[^\n]*", text)
  mentions = {flag for line in commands for flag in re.findall(r"(?<![\w=-])--([a-z][\w-]*)(?![\w.-])", line)}
  mentions |= set(re.findall(r"`--([a-z][\w-]*)[=`]", text))
  missing = sorted(mentions - defined_flags() - {"help", "device"})
  assert not missing, f"{page.name} mentions flags that no command defines: {missing}"


def test_every_golden_file_has_its_provenance():
  text = (GOLDEN / "README.md").read_text(encoding="utf-8")
  missing = [path.name for path in GOLDEN.iterdir() if path.is_file() and f"`{path.name}`" not in text]
  assert set(missing) <= {"README.md"}, f"tests/golden/README.md lacks {missing}"


def test_openclip_golden_file_is_what_its_generator_writes(tmp_path):
  path = tmp_path / "openclip_tiny.safetensors"
  subprocess.run([sys.executable, str(GOLDEN / "generate_openclip_tiny.py"), str(path)], check=True)
  assert path.read_bytes() == (GOLDEN / path.name).read_bytes()


def test_citation_has_the_version_of_the_package():
  text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
  assert re.findall(r"^version: (.*)$", text, flags=re.MULTILINE) == [clipvip_jax.__version__]


def test_readme_fits_five_minutes():
  assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_variant_that_recipes_share_is_documented():
  text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
  names = {*post_pretrain.VARIANTS, *fine_tuning.VARIANTS}
  assert {"own_videos", "from_clip", "proxies_7", "frozen_lower"} <= names
  assert [name for name in sorted(names) if f"`{name}`" not in text] == []
