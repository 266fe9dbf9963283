"""Launcher for Kubernetes: a JobSet on a TPU slice of GKE, or on nodes with GPUs.

  python -m launch.kubernetes --name=vip --image=REGISTRY/clipvip:1 --tpu=v6e --topology=4x8 --claim=shared:/shared \\
    -- --config=configs/post_pretrain.py:b16 --workdir=/shared/runs/b16 --config.data.data_dir=/shared/corpora
  python -m launch.kubernetes --name=vip --image=REGISTRY/clipvip:1 --nodes=4 --gpus=8 --claim=shared:/shared -- ...
  python -m launch.kubernetes --name=vip --delete

Passes the manifest to `kubectl create` as JSON on standard input and exits; the JobSet controller restarts the run.
--dry-run prints the manifest. The cluster needs JobSet (https://jobset.sigs.k8s.io); the image is built from Dockerfile
(docs/scale.md), which installs the project: configs/NAME.py becomes the name of a recipe. A pod is one JAX process.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

from clipvip_jax.utils import storage
from clipvip_jax.utils.cli import RESTART_EXIT_CODES, exit_on_error
from clipvip_jax.utils.errors import UserError
from launch import common

_TOPOLOGIES_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# GKE's accelerator name of each generation, and its 2D topologies; None: 3D, see `tpu_nodes`.
_TPUS = {
  "v4": ("tpu-v4-podslice", None),
  "v5e": ("tpu-v5-lite-podslice", _TOPOLOGIES_2D),
  "v5p": ("tpu-v5p-slice", None),
  "v6e": ("tpu-v6e-slice", _TOPOLOGIES_2D),
}
_SMALL_TOPOLOGIES_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_WORKERS, _CONTAINER = "workers", "train"
_COORDINATOR_PORT = 8476  # of the first pod, on GPUs
# Also 134, JAX's abort if a peer process never joined, and 137, SIGKILL after a node failure or out of memory.
_RESTARTED = (*RESTART_EXIT_CODES, 134, 137)


def tpu_nodes(generation: str, topology: str) -> tuple[int, int]:
  """Returns (number of nodes, chips per node) of a TPU slice.

  Raises:
    UserError: the generation has no such topology.
  """
  topologies_2d = _TPUS[generation][1]
  chips = math.prod(int(side) for side in topology.split("x")) if re.fullmatch(r"\d+(x\d+)+", topology) else 0
  sides = [int(side) for side in topology.split("x")] if chips else []
  is_large_3d = len(sides) == 3 and sides == sorted(sides) and chips and all(side % 4 == 0 for side in sides)
  if topologies_2d and topology not in topologies_2d:
    raise UserError(
      f"--topology={topology} does not exist for --tpu={generation}; use one of {', '.join(topologies_2d)}"
    )
  if not topologies_2d and topology not in _SMALL_TOPOLOGIES_3D and not is_large_3d:
    allowed = f"{', '.join(_SMALL_TOPOLOGIES_3D)} or AxBxC, multiples of 4 in ascending order, such as 4x4x8"
    raise UserError(f"--topology={topology} does not exist for --tpu={generation}; use one of {allowed}")
  per_node = chips if topologies_2d and chips <= 8 else 4
  return chips // per_node, per_node


def manifest(options: argparse.Namespace, training_args: Sequence[str]) -> dict[str, Any]:
  """Returns the JobSet. Its headless service gives each pod the host name NAME-workers-0-INDEX.NAME."""
  if options.tpu:
    nodes, chips = tpu_nodes(options.tpu, options.topology)
    resource, count = "google.com/tpu", chips
  else:
    nodes, resource, count = options.nodes, "nvidia.com/gpu", options.gpus
  pod = _pod(options, nodes, resource, count, training_args)
  job = {
    "completionMode": "Indexed",
    "completions": nodes,
    "parallelism": nodes,
    "backoffLimit": 0,  # a single pod cannot rejoin: all processes exit with the first
    "podFailurePolicy": {
      "rules": [
        {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
          "action": "FailJob",
          "onExitCodes": {"containerName": _CONTAINER, "operator": "NotIn", "values": list(_RESTARTED)},
        },
      ]
    },
    "template": {"spec": pod},
  }
  metadata: dict[str, Any] = {"name": options.name}
  if options.tpu:  # one node pool is one slice
    metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": {
      "network": {"enableDNSHostnames": True, "subdomain": options.name},
      "failurePolicy": {
        "maxRestarts": options.max_restarts,
        # FailJob above marks a failure of the run itself. Any other failure restarts all pods together.
        "rules": [{"name": "failed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
      },
      "replicatedJobs": [{"name": _WORKERS, "replicas": 1, "template": {"spec": job}}],
    },
  }


def _pod(
  options: argparse.Namespace, nodes: int, resource: str, count: int, training_args: Sequence[str]
) -> dict[str, Any]:
  """Returns the specification of a pod with `count` of `resource`, such as nvidia.com/gpu."""
  env = {name: _escape(content) for name, content in options.env}
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
    "args": [*_process_flags(options, nodes), *map(_escape, map(_recipe_by_name, training_args))],
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


def _process_flags(options: argparse.Namespace, nodes: int) -> list[str]:
  """Returns the flags with which the processes form one cluster.

  On TPU, JAX reads the variables that GKE sets. On GPUs, JAX's detection would need the package `kubernetes` and read
  access to pods and jobs, so the flags are explicit. Kubernetes expands the process id.
  """
  if options.tpu:
    return ["--distributed"]
  coordinator = f"{options.name}-{_WORKERS}-0-0.{options.name}:{_COORDINATOR_PORT}"
  return [
    f"--coordinator={coordinator}",
    f"--num_processes={nodes}",
    "--process_id=$(JOB_COMPLETION_INDEX)",
  ]


def _recipe_by_name(arg: str) -> str:
  """Replaces configs/NAME.py, a path in a clone, by the name of the recipe."""
  return re.sub(r"^(--?config=|)configs/(\w+)\.py(?=:|$)", r"\1\2", arg)


def _escape(text: str) -> str:
  """Escapes text for Kubernetes, which expands $(NAME) to a variable and $$ to $."""
  return text.replace("$", "$$")


def _claim(text: str) -> tuple[str, str]:
  name, _, path = text.partition(":")
  if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or not path.startswith("/") or path == "/":
    raise argparse.ArgumentTypeError(f"{text!r} must be CLAIM:/FOLDER, a PersistentVolumeClaim and its mount path")
  return name, path.rstrip("/")


def _pair(text: str) -> tuple[str, str]:
  name, equals, content = text.partition("=")
  if not name or not equals:
    raise argparse.ArgumentTypeError(f"{text!r} must be LABEL=VALUE")
  return name, content


def _check(options: argparse.Namespace, training_args: Sequence[str]) -> None:
  """Raises UserError for options that the cluster would reject, or with which the run would not be saved."""
  common.check_training(training_args, remote=True)
  if not options.image:
    raise UserError("--image is missing; pass REGISTRY/NAME:TAG of an image that Dockerfile builds (see docs/scale.md)")
  if options.tpu and options.topology and not (options.nodes or options.gpus):
    nodes = tpu_nodes(options.tpu, options.topology)[0]
  elif options.nodes and options.gpus and not (options.tpu or options.topology):
    nodes = options.nodes
  else:
    raise UserError("the resources are missing or ambiguous; pass either --tpu and --topology, or --nodes and --gpus")
  pod_name = f"{options.name}-{_WORKERS}-0-{nodes - 1}-12345"
  if len(pod_name) > 63:
    excess = len(pod_name) - 63
    raise UserError(f"--name={options.name} makes pod names such as {pod_name} too long; shorten it by {excess}")
  workdir = common.flag_value(training_args, "workdir")
  folders = [path for _, path in options.claim]
  if not storage.is_remote(workdir) and not any(f"{workdir}/".startswith(f"{path}/") for path in folders):
    raise UserError(
      f"--workdir={workdir} is not on a mounted volume ({', '.join(folders) or 'none'}), so it would be lost with the "
      "pod; pass --claim=CLAIM:/FOLDER of a folder that contains it, or --workdir=gs://BUCKET/NAME"
    )


def main() -> None:
  """Parses options and calls kubectl once."""
  parser = common.parser(__doc__)
  parser.add_argument("--image", help="container image, built from Dockerfile")
  parser.add_argument("--tpu", choices=tuple(_TPUS), help="TPU generation of a GKE slice")
  parser.add_argument("--topology", help="chips of the slice along each axis, such as 4x8")
  parser.add_argument("--nodes", type=common.at_least(1), help="number of GPU nodes")
  parser.add_argument("--gpus", type=common.at_least(1), help="GPUs per node")
  parser.add_argument(
    "--claim",
    action="append",
    default=[],
    type=_claim,
    metavar="CLAIM:/FOLDER",
    help="PersistentVolumeClaim and where to mount it; repeatable",
  )
  parser.add_argument(
    "--node_selector",
    action="append",
    default=[],
    type=_pair,
    metavar="LABEL=VALUE",
    help="label of the nodes; repeatable",
  )
  parser.add_argument(
    "--grace_seconds", type=common.at_least(1), default=300, help="seconds from SIGTERM to SIGKILL; default: 300"
  )
  parser.add_argument("--namespace", type=common.resource_name, help="namespace; default: that of kubectl")
  parser.add_argument("--delete", action="store_true", help="stop the run, delete its JobSet and exit")
  options, training_args = common.parse(parser, sys.argv[1:])
  if not options.delete:
    _check(options, training_args)
  shell = common.Shell(dry_run=options.dry_run)
  shell.require("kubectl", "install it: https://kubernetes.io/docs/tasks/tools")
  namespace = [f"--namespace={options.namespace}"] if options.namespace else []
  if options.delete:
    shell.run_checked(["kubectl", "delete", "jobset", options.name, *namespace])
    return
  text = json.dumps(manifest(options, training_args), indent=2, ensure_ascii=False) + "\n"
  shell.run_checked(["kubectl", "create", *namespace, "--filename=-"], text=text)


if __name__ == "__main__":
  exit_on_error(main)
