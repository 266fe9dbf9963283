"""Runs on Kubernetes as a JobSet: on a TPU slice of GKE, or on nodes with GPUs.

  python -m launch.kubernetes --name=vip --image=REGISTRY/clip:1 --tpu=v6e --topology=4x8 --claim=shared:/shared \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora
  python -m launch.kubernetes --name=vip --image=REGISTRY/clip:1 --nodes=4 --gpus=8 --claim=shared:/shared -- ...
  python -m launch.kubernetes --name=vip --delete

The manifest goes to kubectl as JSON through standard input; --dry-run shows it. The cluster needs JobSet
(https://jobset.sigs.k8s.io), the image this project in its working folder and `python` with the packages of
requirements.lock (see docs/scale.md). A pod is one process of JAX. The cluster restarts the run, not this command.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

from clipvip_jax.utils.cli import RESTART_EXIT_CODES, exit_on_error
from clipvip_jax.utils.errors import UserError
from launch import common

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# GKE's name of each generation, and its topologies; None: three numbers, see `_chips`.
_TPUS = {
  "v4": ("tpu-v4-podslice", None),
  "v5e": ("tpu-v5-lite-podslice", _FLAT),
  "v5p": ("tpu-v5p-slice", None),
  "v6e": ("tpu-v6e-slice", _FLAT),
}
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_WORKERS, _CONTAINER = "workers", "train"
_PORT = 8476  # of the coordinator, where JAX does not choose it
# A process whose neighbour never came ends with 134 (JAX aborts), one whose node went down or was full with 137.
_NOT_ITS_FAULT = (*RESTART_EXIT_CODES, 134, 137)


def tpu_nodes(generation: str, topology: str) -> tuple[int, int]:
  """(nodes, chips of each) of a TPU slice.

  Raises:
    UserError: there is no such topology.
  """
  flat = _TPUS[generation][1]
  chips = math.prod(int(side) for side in topology.split("x")) if re.fullmatch(r"\d+(x\d+)+", topology) else 0
  sides = [int(side) for side in topology.split("x")] if chips else []
  cube = len(sides) == 3 and sides == sorted(sides) and chips and all(side % 4 == 0 for side in sides)
  if flat and topology not in flat:
    raise UserError(f"--topology={topology} is none of {generation}; there are {', '.join(flat)}")
  if not flat and topology not in _SMALL_CUBES and not cube:
    allowed = f"{', '.join(_SMALL_CUBES)} and AxBxC with multiples of 4 that do not fall, as in 4x4x8"
    raise UserError(f"--topology={topology} is none of {generation}; there are {allowed}")
  per_node = chips if flat and chips <= 8 else 4
  return chips // per_node, per_node


def manifest(options: argparse.Namespace, tail: Sequence[str]) -> dict[str, Any]:
  """The JobSet. Its headless service gives each pod the name NAME-workers-0-INDEX.NAME."""
  if options.tpu:
    nodes, chips = tpu_nodes(options.tpu, options.topology)
    resource, count = "google.com/tpu", chips
  else:
    nodes, resource, count = options.nodes, "nvidia.com/gpu", options.gpus
  pod = _pod(options, nodes, resource, count, tail)
  job = {
    "completionMode": "Indexed",
    "completions": nodes,
    "parallelism": nodes,
    "backoffLimit": 0,  # a pod alone cannot come back: its neighbours have ended too
    "podFailurePolicy": {
      "rules": [
        {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
          "action": "FailJob",
          "onExitCodes": {"containerName": _CONTAINER, "operator": "NotIn", "values": list(_NOT_ITS_FAULT)},
        },
      ]
    },
    "template": {"spec": pod},
  }
  metadata: dict[str, Any] = {"name": options.name}
  if options.tpu:  # all pods of a slice on one node pool, which is one slice
    metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": {
      "network": {"enableDNSHostnames": True, "subdomain": options.name},
      "failurePolicy": {
        "maxRestarts": options.max_restarts,
        # What FailJob above ended is the run's own failure; every other end is restarted, all pods together.
        "rules": [{"name": "failed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
      },
      "replicatedJobs": [{"name": _WORKERS, "replicas": 1, "template": {"spec": job}}],
    },
  }


def _pod(options: argparse.Namespace, nodes: int, resource: str, count: int, tail: Sequence[str]) -> dict[str, Any]:
  """A pod's specification."""
  env = {name: _inert(content) for name, content in options.env}
  if not options.tpu:
    env["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(count)))
  claims = {f"claim-{index}": claim for index, claim in enumerate(options.claim)}
  selector = dict(options.node_selector)
  if options.tpu:
    selector["cloud.google.com/gke-tpu-accelerator"] = _TPUS[options.tpu][0]
    selector["cloud.google.com/gke-tpu-topology"] = options.topology
  container = {
    "name": _CONTAINER,
    "image": options.image,
    "command": ["python", "-m", "clipvip_jax.main"],
    "args": [*_joined(options, nodes), *map(_inert, tail)],
    "env": [{"name": name, "value": content} for name, content in env.items()],
    "resources": {"limits": {resource: count}},
    "volumeMounts": [
      {"name": "memory", "mountPath": "/dev/shm"},
      *({"name": name, "mountPath": path} for name, (_, path) in claims.items()),
    ],
  }
  return {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": options.grace_seconds,
    "nodeSelector": selector,
    "tolerations": [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}],
    "containers": [container],
    "volumes": [
      {"name": "memory", "emptyDir": {"medium": "Memory"}},
      *({"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, (claim, _) in claims.items()),
    ],
  }


def _joined(options: argparse.Namespace, nodes: int) -> list[str]:
  """How the processes find each other.

  GKE tells TPU pods, and JAX reads it. Elsewhere JAX would ask Kubernetes, which takes another package and the right to
  read pods and jobs; what it would find is known here. Kubernetes puts the index in.
  """
  if options.tpu:
    return ["--distributed"]
  first = f"{options.name}-{_WORKERS}-0-0.{options.name}"
  return [f"--coordinator={first}:{_PORT}", f"--num_processes={nodes}", "--process_id=$(JOB_COMPLETION_INDEX)"]


def _inert(text: str) -> str:
  """A text in which Kubernetes replaces nothing: it reads $(NAME) as a variable, and $$ as $."""
  return text.replace("$", "$$")


def _claim(text: str) -> tuple[str, str]:
  name, _, path = text.partition(":")
  if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or not path.startswith("/") or path == "/":
    raise argparse.ArgumentTypeError(f"{text!r} must be CLAIM:/FOLDER, the name of a PersistentVolumeClaim and where")
  return name, path.rstrip("/")


def _pair(text: str) -> tuple[str, str]:
  name, equals, content = text.partition("=")
  if not name or not equals:
    raise argparse.ArgumentTypeError(f"{text!r} must be LABEL=VALUE")
  return name, content


def _check(options: argparse.Namespace, tail: Sequence[str]) -> None:
  """Raises UserError for what a cluster would refuse, or would do without keeping the run."""
  common.check_training(tail, elsewhere=True)
  if not options.image:
    raise UserError("--image is missing: REGISTRY/NAME:TAG of an image with this project; see docs/scale.md")
  if options.tpu and options.topology and not (options.nodes or options.gpus):
    nodes = tpu_nodes(options.tpu, options.topology)[0]
  elif options.nodes and options.gpus and not (options.tpu or options.topology):
    nodes = options.nodes
  else:
    raise UserError("give either --tpu and --topology, or --nodes and --gpus")
  longest = f"{options.name}-{_WORKERS}-0-{nodes - 1}-12345"  # the name of a pod
  if len(longest) > 63:
    raise UserError(f"--name={options.name} is {len(longest) - 63} letters too long: pods are named {longest}")
  workdir = common.value(tail, "workdir")
  folders = [path for _, path in options.claim]
  if not any(f"{workdir}/".startswith(f"{path}/") for path in folders):
    raise UserError(
      f"--workdir={workdir} lies in no --claim=CLAIM:/FOLDER (there are: {', '.join(folders) or 'none'}), "
      "so it would be gone when a pod ends"
    )


def main() -> None:
  """Reads options, then one call of kubectl."""
  parser = common.parser(__doc__)
  parser.add_argument("--image", help="with this project and its packages")
  parser.add_argument("--tpu", choices=tuple(_TPUS), help="a TPU slice of that generation on GKE")
  parser.add_argument("--topology", help="of the slice, in chips, as in 4x8")
  parser.add_argument("--nodes", type=common.at_least(1), help="with GPUs")
  parser.add_argument("--gpus", type=common.at_least(1), help="of a node, all of them")
  parser.add_argument("--claim", action="append", default=[], type=_claim, metavar="CLAIM:/FOLDER", help="repeatable")
  parser.add_argument("--node_selector", action="append", default=[], type=_pair, metavar="LABEL=VALUE")
  parser.add_argument("--grace_seconds", type=common.at_least(1), default=300, help="for saving, when a pod must go")
  parser.add_argument("--namespace", type=common.label, help="default: kubectl's own")
  parser.add_argument("--delete", action="store_true", help="end the run and remove it, and nothing else")
  options, tail = common.parse(parser, sys.argv[1:])
  if not options.delete:
    _check(options, tail)
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("kubectl", "https://kubernetes.io/docs/tasks/tools")
  place = [f"--namespace={options.namespace}"] if options.namespace else []
  if options.delete:
    shell.must(["kubectl", "delete", "jobset", options.name, *place])
    return
  text = json.dumps(manifest(options, tail), indent=2, ensure_ascii=False) + "\n"
  shell.must(["kubectl", "create", *place, "--filename=-"], text=text)


if __name__ == "__main__":
  exit_on_error(main)
