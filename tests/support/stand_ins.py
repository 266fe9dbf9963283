"""A machine with stand-ins for gcloud, sbatch and kubectl, and what they answer."""

import json
import subprocess
import sys

from project_paths import ROOT

# Harmless wherever it is quoted as it should be.
HOSTILE = '/shared/it\'s a "run" $(touch pwned) `touch pwned` ; touch pwned'
TRAINING = ["--", "--config=configs/post_pretrain.py:b16", "--workdir=/shared/runs/b16"]
TPU = ["--name=vip", "--zone=us-east5-b", "--accelerator=v6e-32", "--poll_seconds=0"]
SLURM = ["--name=vip", "--nodes=4", "--gpus=8"]
GPUS = ["--name=vip", "--image=registry/clip:1", "--claim=disk:/shared", "--nodes=4", "--gpus=8"]
SLICE = ["--name=vip", "--image=registry/clip:1", "--claim=disk:/shared", "--tpu=v6e", "--topology=4x8"]

# Notes how it was called, and answers what the test has written for such a call: [exit code, output, errors].
STAND_IN = f"""#!{sys.executable} -S
import json, pathlib, sys
here = pathlib.Path(__file__).parent
tool = pathlib.Path(__file__).name
text = "" if sys.stdin.isatty() else sys.stdin.read()
with (here / "calls").open("a") as calls:
  calls.write(json.dumps([[tool, *sys.argv[1:]], text]) + "\\n")
answers = json.loads((here / "answers").read_text())
kind = " ".join([tool, *sys.argv[3:5]]) if tool == "gcloud" else tool
mine = answers.get(kind, [])
code, out, err = mine.pop(0) if mine else [0, "", ""]
(here / "answers").write_text(json.dumps(answers))
print(out)
print(err, file=sys.stderr)
sys.exit(code)
"""

GONE = [1, "", "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found"]
REQUEST, MACHINES, SSH = "gcloud queued-resources describe", "gcloud tpu-vm describe", "gcloud tpu-vm ssh"


class Machine:
  """A PATH with nothing but stand-ins, so that no test reaches the real tools."""

  def __init__(self, folder):
    self.folder = folder
    folder.mkdir()
    for tool in ("gcloud", "sbatch", "kubectl", "tar", "mkdir", "scontrol"):
      (folder / tool).write_text(STAND_IN)
      (folder / tool).chmod(0o755)
    self.answer({})

  def answer(self, answers):
    (self.folder / "calls").write_text("")
    (self.folder / "answers").write_text(json.dumps(answers))

  def run(self, command, cwd=ROOT, **env):
    env = {"PATH": str(self.folder), **env}
    quiet = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, cwd=cwd, env=env, timeout=60, **quiet)

  def launch(self, launcher, *arguments):
    return self.run([sys.executable, "-m", f"launch.{launcher}", *arguments])

  def calls(self):
    """[(arguments, standard input), ...]"""
    return [tuple(json.loads(line)) for line in (self.folder / "calls").read_text().splitlines()]

  def verbs(self):
    """What gcloud was asked for: "create", "ssh 1" for the first start of a run and so on."""
    verbs = []
    for arguments, _ in self.calls():
      if arguments[0] == "gcloud":
        start = arguments[-1].partition("launch.worker .. ")[2]
        verbs.append(" ".join([*arguments[4:5], *start.split(" ")[:1]]).strip())
    return verbs


def states(*found):
  """Answers to questions after a state: what is asked of the machines follows each ACTIVE."""
  request, machines = [], []
  for state in found:
    if state in ("READY", "PREEMPTED", "REPAIRING"):
      request.append([0, "ACTIVE", ""])
      machines.append([0, state, ""])
    else:
      request.append(GONE if state == "ABSENT" else [0, state, ""])
  return {REQUEST: request, MACHINES: machines}


def runs(*codes):
  """Exit codes over ssh; the first is that of installing."""
  return {SSH: [[code, "", ""] for code in codes]}
