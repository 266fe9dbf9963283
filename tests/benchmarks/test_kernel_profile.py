"""Kernels of traces as GPUs, CPUs and TPUs record them."""

import jax
import pytest

from benchmarks.kernel_profile import Kernel, kernels

UP = "jit(step)/transpose(jvp(ClipVip.embed_video))/vision/transformer/block_3/mlp/up/dot_general"
NORM = "jit(step)/jvp(ClipVip.embed_text)/text/transformer/block_0/mlp_norm/add"
HLO = f"""HloModule jit_step

%inner (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %add.1 = f32[8]{{0}} add(%p, %p), metadata={{op_name="{NORM}"}}
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0), metadata={{op_name="a"}}
  %gemm.1 = f32[8]{{0}} add(%a, %a), metadata={{op_name="{UP}"}}
  %gemm.2 = f32[8]{{0}} add(%gemm.1, %a), metadata={{op_name="{UP.replace("block_3", "block_4")}"}}
  %fusion.7 = f32[8]{{0}} fusion(%gemm.2), kind=kLoop, calls=%inner
  ROOT %adam = f32[8]{{0}} multiply(%fusion.7, %fusion.7), metadata={{op_name="jit(step)/mul"}}
}}
"""


def profile(plane, line, events):
  """Returns a trace of (name, instruction or "", start, duration in nanoseconds)."""
  names = {name: number for number, name in enumerate(dict.fromkeys(name for name, *_ in events), 1)}
  text = "".join(
    f"events {{ metadata_id: {names[name]} offset_ps: {1000 * start} duration_ps: {1000 * duration} "
    + (f'stats {{ metadata_id: 1 str_value: "{instruction}" }} }} ' if instruction else "} ")
    for name, instruction, start, duration in events
  )
  metadata = "".join(
    f'event_metadata {{ key: {number} value {{ id: {number} name: "{name}" }} }} ' for name, number in names.items()
  )
  stats = 'stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }'
  text = f'planes {{ id: 1 name: "{plane}" lines {{ id: 1 name: "{line}" {text} }} {metadata} {stats} }}'
  serialized = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
  return jax.profiler.ProfileData.from_serialized_xspace(serialized)


EXPECTED = [
  Kernel("vision/transformer/block/mlp/up", "backward", "gemm", pytest.approx(3500e-9), 1.0),
  Kernel("text/transformer/block/mlp_norm", "forward", "fusion", pytest.approx(500e-9), 0.5),
  Kernel("optimizer, loss, other", "", "adam", pytest.approx(50e-9), 0.5),
]


def test_kernels_of_a_gpu_are_summed_by_module_and_divided_by_steps():
  events = [
    ("cutlass_80", "gemm.1", 0, 3000),
    ("cutlass_80", "gemm.2", 3000, 4000),
    ("loop_fusion", "fusion.7", 7000, 1000),
    ("adam", "adam", 8000, 100),
    ("memcpy", "", 8100, 900),
    ("other program", "unknown.1", 9000, 900),
  ]
  assert kernels(profile("/device:GPU:0", "Stream #1", events), HLO, steps=2) == EXPECTED


def test_operations_of_a_tpu_are_named_by_their_text_and_a_loop_counts_without_its_body():
  events = [
    ("%gemm.1 = f32[8]{0} add(%a, %a)", "", 0, 8000),
    ("%fusion.7 = f32[8]{0} fusion(%gemm.2)", "", 1000, 1000),
    ("%adam = f32[8]{0} multiply(%fusion.7)", "", 8000, 100),
  ]
  found = kernels(profile("/device:TPU:0", "XLA Ops", events), HLO, steps=2)
  assert [(kernel.name, kernel.seconds) for kernel in found] == [
    ("gemm", pytest.approx(3500e-9)),
    ("fusion", pytest.approx(500e-9)),
    ("adam", pytest.approx(50e-9)),
  ]
