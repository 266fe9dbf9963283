"""The overview of a run's parameters."""

import jax
import numpy as np

from clipvip_jax.distributed import sharding
from clipvip_jax.training.parameter_table import format_totals, write_parameter_table
from clipvip_jax.utils.log import log

PARAMS = {
  "logit_scale": np.float32(1),
  "text": {"token_embedding": np.zeros((1000, 4), np.float32)},
  "vision": {"proxies": np.zeros((3, 4), np.float32), "norm": {"bias": np.zeros(4, np.float32)}},
}


def test_the_file_lists_every_parameter_and_the_log_has_totals(tmp_path, caplog):
  caplog.set_level("INFO", logger=log.name)
  mesh = sharding.make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
  shardings = sharding.state_shardings(mesh, PARAMS)
  shapes = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), PARAMS, shardings)
  write_parameter_table(tmp_path, shapes, ("text/",))
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "parameters.txt").open()]
  assert [row for row in rows if row] == [
    ["Name", "Shape", "Dtype", "Size", "Sharding"],
    ["logit_scale", "()", "float32", "1", "()"],
    ["text/token_embedding", "(1000, 4)", "float32", "4,000", "('fsdp', None)"],
    ["vision/norm/bias", "(4,)", "float32", "4", "()"],
    ["vision/proxies", "(3, 4)", "float32", "12", "()"],
  ]
  assert "parameters: 4,017 (text 4,000, vision 16), 4,000 of them frozen; listed in parameters.txt" in caplog.text
  assert [path.name for path in tmp_path.iterdir()] == ["parameters.txt"]


def test_totals_of_a_run_without_frozen_parameters_have_no_number_of_them():
  assert format_totals(PARAMS, ()) == "4,017 (text 4,000, vision 16)"
