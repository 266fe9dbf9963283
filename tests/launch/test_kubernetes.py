"""Tests of the JobSet manifest: process flags, volumes, restart policy and TPU topologies."""

import json

import pytest
from stand_ins import GPUS, SLICE, TRAINING

from clipvip_jax.utils.cli import EXIT_HUNG, EXIT_TERMINATED
from launch import kubernetes


def expanded(text, env):
  """Expands a container's argument as Kubernetes does: $(NAME) of a known variable is replaced, $$ is $."""
  result, at = "", 0
  while at < len(text):
    if text[at] != "$" or at + 1 == len(text):
      result, at = result + text[at], at + 1
    elif text[at + 1] == "(" and ")" in text[at:]:
      name = text[at + 2 : text.index(")", at)]
      result, at = result + env.get(name, f"$({name})"), text.index(")", at) + 1
    else:
      result, at = result + ("$" if text[at + 1] == "$" else text[at : at + 2]), at + 2
  return result


def job_set(machine, options, *tail):
  done = machine.launch("kubernetes", *options, *TRAINING[:-1], *tail)
  assert done.returncode == 0, done.stderr
  [(arguments, text)] = machine.calls()
  assert arguments == ["kubectl", "create", "--filename=-"]
  made = json.loads(text)
  assert made["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and made["kind"] == "JobSet"
  return made, made["spec"]["replicatedJobs"][0]["template"]["spec"]


def test_gpu_job_set_passes_coordinator_and_process_ids(machine):
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
    "--coordinator=vip-workers-0-0.vip:8476", "--num_processes=4", "--process_id=3",
    "--config=post_pretrain:b16", workdir,
  ]  # fmt: skip
  assert made["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "vip"}
  mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
  claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
  assert (
    mounts["claim-0"] == "/shared" and claims["claim-0"] == {"claimName": "disk"} and mounts.keys() == claims.keys()
  )


def test_a_workdir_in_a_bucket_needs_no_claim(machine):
  options = [option for option in GPUS if not option.startswith("--claim")]
  assert options != GPUS
  _, job = job_set(machine, options, "--workdir=gs://bucket/run")
  assert job["template"]["spec"]["containers"][0]["args"][-1] == "--workdir=gs://bucket/run"


def test_tpu_job_set_uses_the_cluster_detection_of_gke(machine):
  made, job = job_set(machine, SLICE, "--workdir=/shared/runs")
  pod = job["template"]["spec"]
  assert job["completions"] == 8 and pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
  assert pod["containers"][0]["args"][0] == "--distributed"
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
    "cloud.google.com/gke-tpu-topology": "4x8",
  }
  assert list(made["metadata"]["annotations"].values()) == ["cloud.google.com/gke-nodepool"]


def test_job_set_restarts_after_termination_hang_and_preemption_but_not_after_failure(machine):
  made, job = job_set(machine, [*GPUS, "--max_restarts=9"], "--workdir=/shared/runs")
  policy = made["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 9 and job["backoffLimit"] == 0
  assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy requires restartPolicy Never"

  def action(code, disrupted=False):
    """Applies the first matching rule of the pod, then of the set, as the controllers of Kubernetes and JobSet do."""
    reason = "BackoffLimitExceeded"
    for rule in job["podFailurePolicy"]["rules"]:
      if "onExitCodes" in rule:
        assert rule["onExitCodes"]["operator"] == "NotIn"
        matches = code not in rule["onExitCodes"]["values"]
      else:
        matches = disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
      if matches:
        reason = "PodFailurePolicy" if rule["action"] == "FailJob" else reason
        break
    return next((rule["action"] for rule in policy["rules"] if reason in rule["onJobFailureReasons"]), "RestartJobSet")

  assert {code: action(code) for code in (1, 2, 139, EXIT_HUNG, EXIT_TERMINATED, 134, 137)} == {
    1: "FailJobSet", 2: "FailJobSet", 139: "FailJobSet",
    EXIT_HUNG: "RestartJobSet", EXIT_TERMINATED: "RestartJobSet", 134: "RestartJobSet", 137: "RestartJobSet",
  }  # fmt: skip
  assert action(1, disrupted=True) == "RestartJobSet"


@pytest.mark.parametrize(
  ("generation", "topology", "nodes"),
  [
    ("v6e", "1x1", (1, 1)), ("v6e", "2x4", (1, 8)), ("v5e", "4x4", (4, 4)), ("v5e", "16x16", (64, 4)),
    ("v4", "2x2x1", (1, 4)), ("v5p", "2x2x4", (4, 4)), ("v5p", "4x4x8", (32, 4)),
  ],
)  # fmt: skip
def test_tpu_nodes_counts_nodes_and_chips_per_node(generation, topology, nodes):
  assert kubernetes.tpu_nodes(generation, topology) == nodes


@pytest.mark.parametrize("topology", ["", "4x", "4x4x0", "8x4x4", "2x4x8", "-4x4x4", "4x4x4x4"])
def test_unknown_topology_is_rejected(topology):
  with pytest.raises(
    kubernetes.UserError, match=f"--topology={topology} does not exist for --tpu=v5p; use one of 2x2x1"
  ):
    kubernetes.tpu_nodes("v5p", topology)
