"""The training command: flags, one-line errors, printed results."""

import subprocess
import sys

import pytest
from project_paths import ROOT

SMOKE = "--config=configs/post_pretrain.py:smoke"
REJECTED = [
  (["--config=configs/post_pretrain.py:smok"], "error: unknown variant 'smok'; this recipe has: b32, b16"),
  (
    ["--config=configs/post_pretrane.py"],
    "--config=configs/post_pretrane.py is neither a file nor the name of a recipe; files in that folder: configs/ac",
  ),
  (
    ["--config=post_pretrane:smoke"],
    "files in that folder: none; recipes: activitynet, data_scale, didemo",
  ),
  ([SMOKE, "--config.optimizer.lr=1"], "--config.optimizer.lr: config.optimizer has no field 'lr'; it has: b1, b2"),
  ([SMOKE, "--config.seed.x=1"], "--config.seed.x: config.seed is a value and has no fields"),
  ([SMOKE, "--config.train.batch_size=many"], "many"),
  ([SMOKE, "--workdir=gs://B/run"], "--workdir=gs://B/run does not name a bucket; pass gs://BUCKET/NAME"),
  (
    [SMOKE, "--workdir=az://bucket/run"],
    "--workdir=az://bucket/run is neither a local path nor gs://BUCKET/NAME or s3://",
  ),
  ([SMOKE, "--workdir=build/never", "--process_id=1"], "--process_id need --coordinator=HOST:PORT"),
  ([SMOKE, "--wrokdir=x"], "Did you mean: workdir"),
  ([SMOKE, "stray"], "unexpected argument 'stray'; see --help"),
  ([SMOKE], "--workdir is missing; example: python -m clipvip_jax.main"),
  ([], "--config is missing; example: python -m clipvip_jax.main"),
  (["--config=BROKEN", "--workdir=build/never"], "name 'nonsense' is not defined"),
  ([SMOKE, "--workdir=README.md"], "is a file"),
  ([SMOKE, "--workdir=build/never/run[lr=1e-3]"], "run[lr=1e-3] has a [ in its path, with which checkpoints cannot be"),
  ([SMOKE, "--workdir=build/never/a\\b/run"], "a\\b/run has a \\ in its path, with which checkpoints cannot be saved"),
  (["--config=configs/post_pretrain.py", "--workdir=build/never"], "weights/clip-vit-base-patch32"),
]


@pytest.mark.slow  # each case starts Python
@pytest.mark.parametrize(("arguments", "message"), REJECTED, ids=lambda x: x if isinstance(x, str) else "")
def test_rejects_bad_input_in_one_line(arguments, message, tmp_path):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config(arg=None):\n  return nonsense\n")
  arguments = [argument.replace("BROKEN", str(broken)) for argument in arguments]
  done = subprocess.run(
    [sys.executable, "-m", "clipvip_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and message in line
  assert not (ROOT / "build" / "never").exists()
