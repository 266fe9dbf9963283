"""Benchmark of loading full-size weights, relative to reading the file into memory.

  python -m benchmarks.load_weights

Prints, for B/32 and B/16 from .safetensors and .pt: seconds to read the file from the page cache, seconds until every
parameter is on the device in this project's layout, their ratio, and the increase of peak memory relative to the file
size. Each load runs in a separate process; prints the best of five.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

SIZES = {"b32": (32, 50), "b16": (16, 197)}  # patch size, number of position embeddings
REPEATS = 5


def tensors(patch: int, positions: int) -> dict[str, np.ndarray]:
  """Returns random tensors under CLIP's published names."""
  rng = np.random.default_rng(0)
  shapes: dict[str, tuple[int, ...]] = {
    "logit_scale": (),
    "text_model.embeddings.token_embedding.weight": (49408, 512),
    "text_model.embeddings.position_embedding.weight": (77, 512),
    "text_projection.weight": (512, 512),
    "vision_model.embeddings.class_embedding": (768,),
    "vision_model.embeddings.patch_embedding.weight": (768, 3, patch, patch),
    "vision_model.embeddings.position_embedding.weight": (positions, 768),
    "visual_projection.weight": (512, 768),
  }
  norms = {"text_model.final_layer_norm": 512, "vision_model.pre_layrnorm": 768, "vision_model.post_layernorm": 768}
  for tower, width in (("text_model", 512), ("vision_model", 768)):
    for layer in range(12):
      block = f"{tower}.encoder.layers.{layer}"
      for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"{block}.self_attn.{name}.weight": (width, width), f"{block}.self_attn.{name}.bias": (width,)}
      shapes |= {f"{block}.mlp.fc1.weight": (4 * width, width), f"{block}.mlp.fc1.bias": (4 * width,)}
      shapes |= {f"{block}.mlp.fc2.weight": (width, 4 * width), f"{block}.mlp.fc2.bias": (width,)}
      norms |= {f"{block}.layer_norm1": width, f"{block}.layer_norm2": width}
  for name, width in norms.items():
    shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
  return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def measure(path: str) -> dict[str, float]:
  """Measures one load in this process."""
  import jax

  import clipvip_jax
  from clipvip_jax.inference import load_model

  del load_model  # imported before the clock starts
  jax.block_until_ready(jax.numpy.zeros(3))
  started = time.perf_counter()
  content = pathlib.Path(path).read_bytes()
  read = time.perf_counter() - started
  size = len(content)
  del content
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - size  # without the copy that reading held
  started = time.perf_counter()
  jax.block_until_ready(clipvip_jax.load(path).params)
  load = time.perf_counter() - started
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return {"size": size, "read": read, "load": load, "memory": (peak - before) / size}


def main() -> None:
  """Generates the files, measures and prints a table."""
  from safetensors.numpy import save_file

  from tests.support import torch_zip

  print(f"{'file':18} {'MB':>5} {'read s':>7} {'load s':>7} {'ratio':>6} {'peak / file':>11}")
  with tempfile.TemporaryDirectory() as folder:
    for name, sizes in SIZES.items():
      arrays = tensors(*sizes)
      for suffix, write in ((".safetensors", save_file), (".pt", lambda a, p: torch_zip.save(p, a))):
        path = pathlib.Path(folder, name + suffix)
        write(arrays, path)
        command = [sys.executable, "-m", "benchmarks.load_weights", str(path)]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(REPEATS)]
        read, load = min(run["read"] for run in runs), min(run["load"] for run in runs)
        memory = min(run["memory"] for run in runs)
        print(f"{path.name:18} {runs[0]['size'] / 1e6:5.0f} {read:7.2f} {load:7.2f} {load / read:6.2f} {memory:11.2f}")
        path.unlink()


if __name__ == "__main__":
  if len(sys.argv) > 1:
    print(json.dumps(measure(sys.argv[1])))
  else:
    main()
