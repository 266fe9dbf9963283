"""Launchers against stand-ins for gcloud, sbatch and kubectl; what they send to other machines is run here."""

import fcntl
import functools
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from clipvip_jax import main as training
from clipvip_jax.command import BAD_INPUT, STUCK, TERMINATED
from launch import common, kubernetes, tpu, worker

ROOT = pathlib.Path(__file__).parent.parent
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


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path / "bin")


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


def test_a_slice_is_asked_for_and_the_run_restarted_until_it_is_done(machine):
  machine.answer(states("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "READY", "READY") | runs(0, TERMINATED, 0))
  done = machine.launch("tpu", *TPU, "--spot", "--extra=--network=lab", *TRAINING)
  assert done.returncode == 0, done.stderr
  looks = ["describe"] * 4  # waiting, provisioning, active, machines ready
  assert machine.verbs() == [
    "describe", "create", *looks, "scp", "ssh", "ssh 1", "describe", "describe", "ssh 2"
  ]  # fmt: skip
  create = next(arguments for arguments, _ in machine.calls() if "create" in arguments)
  for option in ("--accelerator-type=v6e-32", "--runtime-version=v2-alpha-tpuv6e", "--node-id=vip", "--spot"):
    assert option in create
  assert "--network=lab" in create and "--zone=us-east5-b" in create
  assert "vip is PROVISIONING" in done.stdout and "costs money until: python -m launch.tpu" in done.stdout
  assert all("--worker=all" in arguments for arguments, _ in machine.calls() if "ssh" in arguments)


@pytest.mark.parametrize("seen", ["SUSPENDED", "PREEMPTED"])
def test_a_preempted_slice_is_asked_for_again(machine, seen):
  machine.answer(states("READY", seen, seen, "ABSENT", "READY") | runs(0, 255, 0, 0))
  done = machine.launch("tpu", *TPU, "--delete_after", *TRAINING)
  assert done.returncode == 0, done.stderr
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "ssh 1", "delete", "create", "scp", "ssh", "ssh 2", "delete"]
  assert f"the slice was taken away ({seen})" in done.stdout


def test_machines_under_repair_are_waited_for_and_not_given_back(machine):
  machine.answer(states("REPAIRING", "REPAIRING", "READY") | runs(0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"]


@pytest.mark.parametrize(("codes", "what"), [((0, 3), "the run"), ((3,), "installing")])
def test_what_fails_stops_and_says_so(machine, codes, what):
  machine.answer(states("READY", "READY") | runs(*codes))
  done = machine.launch("tpu", *TPU, *TRAINING)
  assert done.returncode == 3
  assert f"error: {what} failed with exit code 3" in done.stderr
  assert [verb for verb in machine.verbs() if verb != "describe"] == ["scp", "ssh", "ssh 1"][: 1 + len(codes)]


def test_a_slice_that_is_preempted_while_it_is_installed_is_asked_for_again(machine):
  machine.answer(states("READY", "SUSPENDED", "SUSPENDED", "ABSENT", "READY") | runs(255, 0, 0))
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  verbs = [verb for verb in machine.verbs() if verb != "describe"]
  assert verbs == ["scp", "ssh", "delete", "create", "scp", "ssh", "ssh 2"]


def test_a_lost_connection_goes_back_to_the_same_start(machine):
  answers = states("READY", "READY", "READY") | runs(0, 255, TERMINATED, 0)
  answers[REQUEST][1:1] = [[1, "", "ERROR: no network"]] * 2
  machine.answer(answers)
  assert machine.launch("tpu", *TPU, *TRAINING).returncode == 0
  assert [verb for verb in machine.verbs() if verb.startswith("ssh ")] == ["ssh 1", "ssh 1", "ssh 2"]


@pytest.mark.parametrize(
  ("answers", "words"),
  [
    (states("ABSENT", "FAILED"), "the request for vip failed; see: gcloud"),
    ({REQUEST: [[1, "", "ERROR: PERMISSION_DENIED"]]}, "cannot tell the state of vip: ERROR: PERMISSION_DENIED"),
    ({REQUEST: [GONE], "gcloud queued-resources create": [[1, "", "quota"]]}, "ended with exit code 1"),
    (states(*["READY"] * 9) | runs(0, *[TERMINATED] * 9), "--max_restarts=2 restarts are used up"),
  ],
)
def test_what_cannot_go_on_is_said_in_one_line(machine, answers, words):
  machine.answer(answers)
  done = machine.launch("tpu", *TPU, "--max_restarts=2", *TRAINING)
  assert done.returncode == BAD_INPUT
  assert words in next(line for line in done.stderr.splitlines() if line.startswith("error: "))
  assert len([verb for verb in machine.verbs() if verb.startswith("ssh ")]) in (0, 3)


@pytest.mark.parametrize(
  ("launcher", "options"),
  [
    ("tpu", [*TPU, "--env=A=b c", "--prepare=mount '/a b'"]),
    ("slurm", [*SLURM, "--env=A=b c"]),
    ("kubernetes", GPUS),
    ("kubernetes", SLICE),
  ],
)
def test_a_dry_run_runs_nothing_and_shows_what_a_run_would_do(machine, launcher, options):
  arguments = [*options, *TRAINING[:-1], f"--workdir={HOSTILE}"]
  shown = machine.launch(launcher, "--dry-run", *arguments)
  assert shown.returncode == 0, shown.stderr
  assert machine.calls() == []

  machine.answer(states("ABSENT", "READY"))
  done = machine.launch(launcher, *arguments)
  assert done.returncode == 0, done.stderr
  real = machine.calls()
  machine.answer({})
  machine.run([shutil.which("bash"), "-c", shown.stdout])  # what is shown can be pasted
  assert machine.calls() == real != []
  assert not list(machine.folder.parent.rglob("pwned")) and not (ROOT / "pwned").exists()


def test_delete_needs_no_run(machine):
  assert machine.launch("tpu", "--name=vip", "--zone=us-east5-b", "--project=lab", "--delete").returncode == 0
  assert machine.launch("kubernetes", "--name=vip", "--namespace=lab", "--delete").returncode == 0
  assert [arguments for arguments, _ in machine.calls()] == [
    shlex.split("gcloud compute tpus queued-resources delete vip --zone=us-east5-b --project=lab --force --quiet"),
    shlex.split("kubectl delete jobset vip --namespace=lab"),
  ]


@pytest.mark.parametrize(
  ("launcher", "arguments", "words"),
  [
    ("tpu", [*TPU, "--accelerator=v9-8", *TRAINING], "there are v4-N, v5litepod-N, v5p-N, v6e-N"),
    ("tpu", [*TPU, "--accelerator=v6e-12", *TRAINING], "v6e-N has an N of 1, 4, 8, 16, 32"),
    ("tpu", [*TPU, "--accelerator=v5p-200", *TRAINING], "multiples of 128 up to 12288"),
    ("tpu", ["--name=vip", "--zone=us-east5-b", *TRAINING], "--accelerator is missing"),
    ("tpu", [*TPU, "--zone=us", *TRAINING], "is no zone, as in us-east5-b"),
    ("tpu", [*TPU, "--name=My_Run", *TRAINING], "lower-case letters, digits and '-'"),
    ("tpu", [*TPU, f"--name={'a' * 64}", *TRAINING], "at most 63"),
    ("tpu", TPU, "--config is missing behind --"),
    ("tpu", [*TPU, "--", "--config=configs/post_pretrain.py"], "--workdir is missing behind --"),
    ("tpu", [*TPU, "--", "--config=configs/no.py", "--workdir=/a"], "no recipe 'configs/no.py'; there are: conf"),
    ("tpu", [*TPU, "--", "--config=tests/tiny.py", "--workdir=/a"], "only recipes in configs/ travel"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=runs"], "must be a whole path"),
    ("tpu", [*TPU, "--", "--config=configs/msrvtt.py", "--workdir=gs://b/r"], "mount the bucket"),
    ("tpu", [*TPU, *TRAINING, "--process_id=3"], "--process_id is given by the launcher"),
    ("tpu", [*TPU, *TRAINING, "--config.a=b\nc"], "line break"),
    ("tpu", [*TPU, "--env=1A=b", *TRAINING], "must be NAME=VALUE"),
    ("tpu", [*TPU, "--max_restarts=-1", *TRAINING], "at least 0"),
    ("slurm", [*SLURM, "--nodes=0", *TRAINING], "--nodes: '0' must be a whole number of at least 1"),
    ("slurm", [*SLURM, "--gpus=x", *TRAINING], "--gpus: 'x' must be a whole number"),
    ("slurm", [*SLURM, "--time=soon", *TRAINING], "MINUTES, HOURS:MINUTES:SECONDS"),
    ("slurm", SLURM, "--config is missing behind --"),
    ("slurm", [*SLURM, "--partitoin=gpu", *TRAINING], "unrecognized arguments: --partitoin=gpu"),
    ("kubernetes", [*GPUS, "--nodes=0", *TRAINING], "at least 1"),
    ("kubernetes", [*GPUS, "--name=1st", *TRAINING], "begin with a letter"),
    ("kubernetes", [*GPUS, f"--name={'a' * 50}", *TRAINING], "letters too long"),
    ("kubernetes", [*GPUS, "--tpu=v6e", *TRAINING], "either --tpu and --topology, or --nodes and --gpus"),
    ("kubernetes", [*GPUS, "--claim=disk", *TRAINING], "CLAIM:/FOLDER"),
    ("kubernetes", [*GPUS[:2], *GPUS[3:], *TRAINING], "lies in no --claim"),
    ("kubernetes", [*SLICE, "--topology=3x3", *TRAINING], "none of v6e; there are 1x1, 2x2"),
    ("kubernetes", [*SLICE, "--tpu=v5p", *TRAINING], "none of v5p; there are 2x2x1"),
    ("kubernetes", ["--name=vip", *GPUS[2:], *TRAINING], "--image is missing"),
  ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_before_anything_runs(machine, launcher, arguments, words):
  done = machine.launch(launcher, *arguments)
  assert done.returncode == BAD_INPUT, done.stdout
  assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
  assert machine.calls() == []


@pytest.mark.parametrize(
  ("launcher", "options", "tool"), [("tpu", TPU, "gcloud"), ("slurm", SLURM, "sbatch"), ("kubernetes", GPUS, "kubectl")]
)
def test_a_missing_tool_is_named(machine, launcher, options, tool):
  (machine.folder / tool).unlink()
  done = machine.launch(launcher, *options, *TRAINING)
  assert done.returncode == BAD_INPUT and f"error: {tool} is not installed, or not on PATH" in done.stderr
  assert machine.calls() == []


def test_what_the_documentation_shows_works(machine):
  blocks = (ROOT / "docs" / "scale.md").read_text().replace("\\\n", " ").splitlines()
  shown = [shlex.split(line)[2:] for line in blocks if line.startswith("    python -m launch.")]
  assert {module for module, *_ in shown} == {"launch.tpu", "launch.slurm", "launch.kubernetes"}
  for module, *arguments in shown:
    done = machine.run([sys.executable, "-m", module, "--dry-run", *arguments])
    assert done.returncode == 0, done.stderr


def test_what_launchers_give_are_options_of_a_run():
  assert set(common._OURS) <= {*flags.FLAGS, "nodistributed"}
  assert training._DISTRIBUTED.name == "distributed"


# What is sent to the workers of a slice


@pytest.fixture
def home(tmp_path, machine):
  """A worker's home folder, whose Python for a run is a stand-in, and the two commands that it gets over ssh."""
  machine.answer(states("READY"))
  machine.launch("tpu", *TPU, *TRAINING[:-1], f"--workdir={HOSTILE}")
  sent = [call[0][-1].removeprefix("--command=") for call in machine.calls() if "ssh" in call[0]]
  pack = next(call[0] for call in machine.calls() if call[0][0] == "tar")
  home = tmp_path / "home"
  home.mkdir()
  pack[pack.index("-czf") + 1] = str(home / "clipvip_jax.tar.gz")
  subprocess.run(pack, check=True)
  python = home / "clipvip_jax" / "venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(
    f"""#!/bin/sh
case "$2" in
  launch.worker) exec {shlex.quote(sys.executable)} "$@" ;;
  clipvip_jax.main) for arg; do echo "[$arg]"; done; exit 143 ;;
esac
"""
  )
  python.chmod(0o755)
  python3 = home / "bin" / "python3"
  python3.parent.mkdir()
  python3.write_text('#!/bin/sh\necho "$@" >> "$HOME/installed"\n')
  python3.chmod(0o755)
  return home, *sent


def on_worker(home, command):
  env = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
  return subprocess.run(["bash", "-c", command], cwd=home, env=env, capture_output=True, text=True, timeout=60)


def test_a_worker_installs_what_is_pinned_and_runs_what_was_asked_for(home):
  home, install, start = home
  done = on_worker(home, install)
  assert done.returncode == 0, done.stderr
  source = home / "clipvip_jax" / "source"
  assert (source / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes()
  assert (source / "configs" / "post_pretrain.py").exists() and not list(source.rglob("*.pyc"))
  assert "-r source/requirements.lock jax[tpu]" in (home / "installed").read_text()

  done = on_worker(home, start)
  assert done.returncode == TERMINATED, done.stderr
  assert done.stdout.splitlines() == [
    f"[{arg}]" for arg in ["-m", "clipvip_jax.main", "--distributed", *TRAINING[1:-1], f"--workdir={HOSTILE}"]
  ]
  assert not list(home.rglob("pwned"))


def test_nothing_is_installed_under_a_run_that_goes_on(home):
  home, install, _ = home
  with (home / "clipvip_jax" / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert on_worker(home, install).returncode == 0
  assert not (home / "installed").exists() and not (home / "clipvip_jax" / "source").exists()


def start_worker(folder, number, command):
  return subprocess.Popen(
    [sys.executable, "-m", "launch.worker", str(folder), str(number), "sh", "-c", command],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_start_is_made_once_and_outlives_its_connection(tmp_path):
  gate = tmp_path / "gate"
  command = f"echo started; while [ ! -e {gate} ]; do sleep 0.05; done; echo ended; exit 7"
  first = start_worker(tmp_path / "run", 1, command)
  assert first.stdout.readline() == "started\n"
  first.kill()  # the connection
  first.communicate()
  back = start_worker(tmp_path / "run", 1, command)
  assert "going on" in back.stdout.readline()
  gate.touch()
  assert back.communicate()[0].splitlines() == ["started", "ended"]
  assert back.returncode == 7
  late = start_worker(tmp_path / "run", 1, command)
  assert late.communicate()[0].count("started") == 1 and late.returncode == 7
  again = start_worker(tmp_path / "run", 2, "echo once more")
  assert again.communicate()[0] == "once more\n" and again.returncode == 0


def test_a_run_whose_machine_went_down_is_one_to_be_started_again(tmp_path):
  first = start_worker(tmp_path / "run", 1, "echo $PPID; kill -9 $PPID $$")  # and so no exit code is noted
  first.communicate()
  assert first.returncode == TERMINATED
  assert worker.run(tmp_path / "run", "1", ["false"]) == TERMINATED


def test_ctrl_c_leaves_the_run_alone(machine):
  machine.answer(states("READY"))
  waiting = machine.folder / "waiting"
  wait = f"""if "launch.worker" in sys.argv[-1]:
  import time
  pathlib.Path({str(waiting)!r}).touch()
  time.sleep(60)
print(out)"""
  (machine.folder / "gcloud").write_text(STAND_IN.replace("print(out)", wait))
  launcher = subprocess.Popen(
    [sys.executable, "-m", "launch.tpu", *TPU, *TRAINING],
    cwd=ROOT,
    env={"PATH": str(machine.folder)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    # A shell's background job, which these tests may be, ignores Ctrl-C, and so do its children.
    preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
  )
  until = time.monotonic() + 30
  while not waiting.exists() and time.monotonic() < until:
    time.sleep(0.05)
  os.killpg(launcher.pid, signal.SIGINT)
  output, errors = launcher.communicate(timeout=30)
  assert launcher.returncode == 130 and "error: interrupted" in errors
  assert "The run goes on without you" in output and "--name=vip --zone=us-east5-b --delete" in output


# SLURM


@pytest.mark.parametrize("processes", ["gpu", "node"])
def test_slurm_gives_each_process_its_gpus(machine, processes):
  done = machine.launch("slurm", *SLURM, f"--processes={processes}", "--cpus=12", "--time=12:00:00", *TRAINING)
  assert done.returncode == 0, done.stderr
  [(arguments, text)] = machine.calls()
  tasks = {"gpu": 8, "node": 1}[processes]
  for option in ("--nodes=4", f"--ntasks-per-node={tasks}", "--gpus-per-node=8", "--cpus-per-task=12", "--requeue"):
    assert option in arguments
  assert "--signal=TERM@300" in arguments and "--time=12:00:00" in arguments
  assert ("export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in text) == (processes == "node")
  assert text.startswith("#!/usr/bin/env bash\n") and "--cpus-per-task=12 bash -c" in text
  subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_jax_reads_what_slurm_says(monkeypatch):
  from jax._src import clusters

  told = {"JOB_ID": "7", "STEP_NODELIST": "n[3-6]", "NTASKS": "32", "PROCID": "9", "LOCALID": "1"}
  for name, content in told.items():
    monkeypatch.setenv(f"SLURM_{name}", content)
  found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
  assert found == ("n3:61447", 32, 9, [1])


@pytest.mark.parametrize(
  ("codes", "restarts", "ends", "queued"),
  [
    ([0, 0], "0", 0, False),
    ([143, 143], "0", 143, True),
    ([143, 143], "5", 143, False),  # --max_restarts
    ([75, 75], "0", 75, True),  # one was lost, or all stood still
    ([75, 143], "0", 143, True),
    ([2, 143], "0", 255, False),  # one failed, and SLURM ended the other
    ([137, 143], "0", 255, False),
  ],
)
def test_a_slurm_job_is_queued_again_after_143_and_75_alone(machine, tmp_path, codes, restarts, ends, queued):
  machine.launch("slurm", *SLURM, "--max_restarts=5", *TRAINING[:-1], f"--workdir={HOSTILE}")
  text = machine.calls()[0][1]
  # srun runs the wrapper around each process, which here only ends, and answers with the highest code.
  srun = machine.folder / "srun"
  srun.write_text(f"""#!/bin/bash
shift
highest=0
for code in {" ".join(map(str, codes))}; do
  "${{@:1:4}}" {sys.executable} -S -c "import sys; sys.exit($code)"
  ended=$?
  ((ended > highest)) && highest=$ended
done
for arg; do printf '[%s]\\n' "$arg"; done
exit $highest
""")
  srun.chmod(0o755)
  machine.answer({})
  env = {"PATH": f"{machine.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts}
  done = machine.run([shutil.which("bash"), "-c", text], tmp_path, **env)
  assert done.returncode == ends, done.stderr
  assert [arguments for arguments, _ in machine.calls()] == ([["scontrol", "requeue", "7"]] if queued else [])
  assert f"[--workdir={HOSTILE}]" in done.stdout.splitlines()
  assert ("failed with exit code" in done.stderr) == (ends == 255)


# Kubernetes


def expanded(text, env):
  """What Kubernetes makes of a container's argument: $(NAME) of a known variable is replaced, $$ is $."""
  found, at = "", 0
  while at < len(text):
    if text[at] != "$" or at + 1 == len(text):
      found, at = found + text[at], at + 1
    elif text[at + 1] == "(" and ")" in text[at:]:
      name = text[at + 2 : text.index(")", at)]
      found, at = found + env.get(name, f"$({name})"), text.index(")", at) + 1
    else:
      found, at = found + ("$" if text[at + 1] == "$" else text[at : at + 2]), at + 2
  return found


def job_set(machine, options, *tail):
  done = machine.launch("kubernetes", *options, *TRAINING[:-1], *tail)
  assert done.returncode == 0, done.stderr
  [(arguments, text)] = machine.calls()
  assert arguments == ["kubectl", "create", "--filename=-"]
  made = json.loads(text)
  assert made["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and made["kind"] == "JobSet"
  return made, made["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_a_job_set_of_gpu_nodes_says_who_is_who(machine):
  workdir = "--workdir=/shared/$(JOB_COMPLETION_INDEX)/$$HOME/$(touch pwned)$"
  made, job = job_set(machine, [*GPUS, "--env=TOKEN=$(HOSTNAME)"], workdir)
  pod = job["template"]["spec"]
  [container] = pod["containers"]
  assert job["completions"] == job["parallelism"] == 4 and job["completionMode"] == "Indexed"
  assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
  env = {variable["name"]: variable["value"] for variable in container["env"]}
  assert env["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3,4,5,6,7"
  assert expanded(env["TOKEN"], {"HOSTNAME": "x"}) == "$(HOSTNAME)"
  assert [expanded(arg, {"JOB_COMPLETION_INDEX": "3", "HOME": "x"}) for arg in container["args"]] == [
    "--coordinator=vip-workers-0-0.vip:8476", "--num_processes=4", "--process_id=3", TRAINING[1], workdir
  ]  # fmt: skip
  assert made["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "vip"}
  mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
  claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
  assert (
    mounts["claim-0"] == "/shared" and claims["claim-0"] == {"claimName": "disk"} and mounts.keys() == claims.keys()
  )


def test_a_job_set_on_a_tpu_slice_leaves_who_is_who_to_gke(machine):
  made, job = job_set(machine, SLICE, "--workdir=/shared/runs")
  pod = job["template"]["spec"]
  assert job["completions"] == 8 and pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
  assert pod["containers"][0]["args"][0] == "--distributed"
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "4x8",
  }
  assert list(made["metadata"]["annotations"].values()) == ["cloud.google.com/gke-nodepool"]


def test_a_job_set_is_restarted_after_143_and_a_preemption_and_not_after_a_failure(machine):
  made, job = job_set(machine, [*GPUS, "--max_restarts=9"], "--workdir=/shared/runs")
  policy = made["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 9 and job["backoffLimit"] == 0
  assert job["template"]["spec"]["restartPolicy"] == "Never", "else the cluster refuses a podFailurePolicy"

  def action(code, disrupted=False):
    """As Kubernetes' and JobSet's controllers decide: the first rule that fits, in the pod and then in the set."""
    reason = "BackoffLimitExceeded"
    for rule in job["podFailurePolicy"]["rules"]:
      if "onExitCodes" in rule:
        assert rule["onExitCodes"]["operator"] == "NotIn"
        fits = code not in rule["onExitCodes"]["values"]
      else:
        fits = disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
      if fits:
        reason = "PodFailurePolicy" if rule["action"] == "FailJob" else reason
        break
    return next((rule["action"] for rule in policy["rules"] if reason in rule["onJobFailureReasons"]), "RestartJobSet")

  assert {code: action(code) for code in (1, 2, 139, STUCK, TERMINATED, 134, 137)} == {
    1: "FailJobSet", 2: "FailJobSet", 139: "FailJobSet",
    STUCK: "RestartJobSet", TERMINATED: "RestartJobSet", 134: "RestartJobSet", 137: "RestartJobSet",
  }  # fmt: skip
  assert action(1, disrupted=True) == "RestartJobSet"


@pytest.mark.parametrize(
  ("generation", "topology", "nodes"),
  [
    ("v6e", "1x1", (1, 1)), ("v6e", "2x4", (1, 8)), ("v5e", "4x4", (4, 4)), ("v5e", "16x16", (64, 4)),
    ("v4", "2x2x1", (1, 4)), ("v5p", "2x2x4", (4, 4)), ("v5p", "4x4x8", (32, 4)),
  ],
)  # fmt: skip
def test_nodes_of_a_topology(generation, topology, nodes):
  assert kubernetes.tpu_nodes(generation, topology) == nodes


@pytest.mark.parametrize("topology", ["", "4x", "4x4x0", "8x4x4", "2x4x8", "-4x4x4", "4x4x4x4"])
def test_topologies_that_do_not_exist(topology):
  with pytest.raises(kubernetes.UserError, match="there are"):
    kubernetes.tpu_nodes("v5p", topology)


@pytest.mark.parametrize("name", ["v4-8", "v5litepod-256", "v5p-64", "v5p-384", "v6e-1"])
def test_accelerators_that_exist(name):
  assert tpu.accelerator(name) == name
