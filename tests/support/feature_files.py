"""Feature files with single tensors or fields replaced and a digest that matches, as an attacker would."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

from clipvip_jax.inference.feature_file import digest_tensors


def rewrite(path, arrays=None, fields=None):
  """Replaces arrays and fields of a feature file; None removes one."""
  tensors = load_file(path)
  del tensors["digest"]
  values = json.loads(tensors.pop("fields").tobytes())
  tensors, values = {**tensors, **(arrays or {})}, {**values, **(fields or {})}
  text = json.dumps({name: value for name, value in values.items() if value is not None})
  tensors = {name: array for name, array in tensors.items() if array is not None}
  tensors["fields"] = np.frombuffer(text.encode(), np.uint8)
  save_file({**tensors, "digest": digest_tensors(tensors)}, path)
