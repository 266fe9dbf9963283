"""Preflight reports as text."""

import re

from clipvip_jax.cost_model import preflight_table

REPORT = {
  "config": "recipe.py",
  "topology": "h100:8",
  "chips": 8,
  "mesh": {"data": 8, "fsdp": 1},
  "batch": 1024,
  "clips_of_a_chip": 128,
  "hbm": 80e9,
  "usable": 60e9,
  "memory_is_estimated": True,
  "memory_used": 70e9,
  "fits": False,
}


def test_report_without_costs_has_memory_and_verdict():
  text = "\n".join(preflight_table.lines(REPORT))
  assert "recipe.py on h100:8: 8 chips, data=8 fsdp=1; batch 1,024, 128 clips a chip" in text
  assert "(estimated" in text
  assert "65.19 GiB of 74.51 GiB, of which JAX takes 55.88 GiB: does not fit" in text
  assert "operations" not in text


def test_measured_memory_is_compared_with_the_estimate():
  text = "\n".join(preflight_table.lines(REPORT | {"memory_measured": 56e9}))
  assert re.search(r"\n  measured by the run +52\.15 GiB, 1\.25 of it estimated\n", text)


def test_largest_batch_is_shown_or_unknown():
  assert preflight_table.lines(REPORT | {"largest_batch": 896})[-1].endswith("compiled ones: 896")
  assert "unknown" in preflight_table.lines(REPORT | {"largest_batch": None})[-1]


def test_costs_name_the_bound_of_the_step():
  costs = {
    "memory": {"parameters": 70e9},
    "flops_counted": {"video": 2e15},
    "flops_compiled": 3e15,
    "collectives": {"all-gather": {"count": 2, "sent": 3e9}},
    "sent": 3e9,
    "sent_needed": 2e9,
    "hbm_bytes": 5e9,
    "hbm_by_module": {"vision/transformer/block/mlp/up": 2e9, "text": 1e9, **{f"module_{i}": 2e8 for i in range(10)}},
    "seconds": {"compute": 0.25, "memory": 0.5},
    "mfu": 0.4,
    "seconds_to_compile": 90,
  }
  text = "\n".join(preflight_table.lines(REPORT | costs))
  assert "1.50 of what is counted" in text
  assert "3.00 GB; the method needs 2.00 GB, 1.50 of it" in text
  assert re.search(r"mlp/up +2\.00 GB +40%\n  text +1\.00 GB +20%\n", text)
  assert re.search(r"4 others +800\.00 MB +16%\n  together +5\.00 GB\n", text)
  assert "bound by memory" in text and "2,048 clips a second, 40% of peak" in text
  assert "compiled in 1m30s" in text
