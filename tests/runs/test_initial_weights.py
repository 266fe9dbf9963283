"""Initial weights of a run: replaced ones are noticed."""

import numpy as np
import pytest

from clipvip_jax.runs import initial_weights
from clipvip_jax.utils.errors import UserError

PARAMS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.array(1, np.float32)}
CHANGES = {
  "a value": {**PARAMS, "scale": np.array(2, np.float32)},
  "one bit": {**PARAMS, "scale": np.nextafter(PARAMS["scale"], np.float32(2))},
  "a shape": {**PARAMS, "a/kernel": PARAMS["a/kernel"].reshape(3, 2)},
  "a type": {**PARAMS, "scale": np.array(1, np.int32)},
  "a name": {"b/kernel": PARAMS["a/kernel"], "scale": PARAMS["scale"]},
  "a parameter more": {**PARAMS, "bias": np.zeros(0, np.float32)},
}


def test_equal_weights_pass_whatever_their_memory_layout(tmp_path):
  initial_weights.check_initial_weights(tmp_path, "w.pt", PARAMS)  # nothing was recorded
  initial_weights.record_initial_weights(tmp_path, "w.pt", PARAMS)
  columns = np.asfortranarray(PARAMS["a/kernel"])
  initial_weights.check_initial_weights(tmp_path, "elsewhere/w.pt", {"scale": PARAMS["scale"], "a/kernel": columns})
  recorded = initial_weights.read_initial_weights(tmp_path)
  assert recorded == {"source": "w.pt", "sha256": initial_weights.digest_params(PARAMS)}


@pytest.mark.parametrize("change", CHANGES)
def test_replaced_weights_are_refused(tmp_path, change):
  initial_weights.record_initial_weights(tmp_path, "w.pt", PARAMS)
  with pytest.raises(UserError, match=r"'w.pt' has other weights .* than when the run started .*; restore them"):
    initial_weights.check_initial_weights(tmp_path, "w.pt", CHANGES[change])


@pytest.mark.parametrize("content", ["{", "5", "[1]", '{"source": "x"}'])
def test_a_corrupt_record_stops_nothing(tmp_path, content):
  (tmp_path / initial_weights.NAME).write_text(content)
  initial_weights.check_initial_weights(tmp_path, "w.pt", PARAMS)
  assert initial_weights.read_initial_weights(tmp_path) == {}
