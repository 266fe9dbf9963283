"""Tests of the SLURM batch script, executed with a fake srun."""

import os
import shutil
import subprocess
import sys

import pytest
from stand_ins import HOSTILE, SLURM, TRAINING


@pytest.mark.parametrize("processes", ["gpu", "node"])
def test_each_process_gets_its_gpus(machine, processes):
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


def test_jax_detects_the_cluster_from_slurm_variables(monkeypatch):
  from jax._src import clusters

  variables = {"JOB_ID": "7", "STEP_NODELIST": "n[3-6]", "NTASKS": "32", "PROCID": "9", "LOCALID": "1"}
  for name, content in variables.items():
    monkeypatch.setenv(f"SLURM_{name}", content)
  detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
  assert detected == ("n3:61447", 32, 9, [1])


@pytest.mark.parametrize(
  ("codes", "restarts", "exit_code", "requeued"),
  [
    ([0, 0], "0", 0, False),
    ([143, 143], "0", 143, True),
    ([143, 143], "5", 143, False),  # --max_restarts
    ([75, 75], "0", 75, True),  # hung, or a peer process died
    ([75, 143], "0", 143, True),
    ([2, 143], "0", 255, False),  # one failed, and SLURM terminated the other
    ([137, 143], "0", 255, False),
  ],
)
def test_job_requeues_only_after_143_and_75(machine, tmp_path, codes, restarts, exit_code, requeued):
  machine.launch("slurm", *SLURM, "--max_restarts=5", *TRAINING[:-1], f"--workdir={HOSTILE}")
  text = machine.calls()[0][1]
  # Fake srun: runs the wrapper around processes that exit with `codes`, and returns the highest code.
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
  assert done.returncode == exit_code, done.stderr
  assert [arguments for arguments, _ in machine.calls()] == ([["scontrol", "requeue", "7"]] if requeued else [])
  assert f"[--workdir={HOSTILE}]" in done.stdout.splitlines()
  assert ("failed with exit code" in done.stderr) == (exit_code == 255)
