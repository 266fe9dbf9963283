"""Feature files with single tensors or fields replaced, as an attacker or a disk fault would."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file


def rewrite(path, arrays=None, fields=None):
  """Replaces arrays and fields of a feature file; None removes one."""
  tensors = load_file(path)
  values = json.loads(tensors.pop("fields").tobytes())
  tensors, values = {**tensors, **(arrays or {})}, {**values, **(fields or {})}
  text = json.dumps({name: value for name, value in values.items() if value is not None})
  tensors = {name: array for name, array in tensors.items() if array is not None}
  save_file({**tensors, "fields": np.frombuffer(text.encode(), np.uint8)}, path)
