"""Training processes of the stress tests, which observe them from outside."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVALUATE_EVERY, SAVE_EVERY = 24, 8, 4
_POLL_SECONDS = 0.002


@dataclasses.dataclass
class Process:
  """A started run. `log` is the file of its output."""

  folder: pathlib.Path
  log: pathlib.Path
  popen: subprocess.Popen
  start: float

  def observe(self) -> tuple[str, int]:
    """Returns (phase, last step that is done)."""
    text = self.log.read_text(encoding="utf-8", errors="replace")
    steps = re.findall(r"(?:resuming from )?step (\d+)[/ ](?!of|\|)", text)
    step = int(steps[-1]) if steps else 0
    if self._is_new(self.folder / "results.json"):
      return "report", step
    if not self._is_new(self.folder / "lock"):
      return "start", step
    if any(self._is_new(path) for path in self.folder.glob("checkpoints/*tmp*")):
      return "save", step
    if step == STEPS or (step and step % EVALUATE_EVERY == 0 and f"step {step} | " not in text):
      return "evaluation", step
    return ("step" if re.search(r"step \d+/", text) else "compile"), step

  def _is_new(self, path: pathlib.Path) -> bool:
    """Returns whether this process has written a path, which may vanish at any time."""
    try:
      return path.stat().st_mtime > self.start
    except FileNotFoundError:
      return False

  def phases(self) -> Iterator[tuple[str, int]]:
    """Yields what is observed until the process ends."""
    while self.popen.poll() is None:
      yield self.observe()
      time.sleep(_POLL_SECONDS)


def command(folder: pathlib.Path, steps: int, eval_every: int, checkpoint_every: int, url: str = "") -> list[str]:
  """Returns the training command for workdir `folder`; corpus and compilation cache are shared with its siblings.

  With the URL of a bucket, workdir and corpus are there under the same names, and `folder` holds local files.
  """
  parent = url or folder.parent
  return [
    *(sys.executable, "-m", "clipvip_jax.main", "--config=configs/post_pretrain.py:smoke"),
    f"--workdir={parent}/{folder.name}",
    f"--config.data.data_dir={parent}/corpora",
    f"--config.host.compilation_cache={folder.parent / 'compiled'}",
    "--config.host.log_every=1",
    f"--config.train.num_steps={steps}",
    f"--config.train.eval_every={eval_every}",
    f"--config.train.checkpoint_every={checkpoint_every}",
    *([f"--config.host.scratch_dir={folder}"] if url else []),
  ]


def launch(folder: pathlib.Path, cache: pathlib.Path, url: str = "") -> Process:
  """Starts or resumes the run in `folder`. `cache`: folder of compiled programs. `url`: see `command`."""
  environment = {
    **os.environ,
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # processes start in half the time with cached bytecode
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  log, start = folder.with_suffix(".log"), time.time()
  with log.open("w") as output:
    arguments = command(folder, STEPS, EVALUATE_EVERY, SAVE_EVERY, url)
    popen = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment)
  return Process(folder, log, popen, start)
