"""Traffic of compiled programs whose reads and writes are known by hand, and modules by the names of operations."""

import json
import subprocess
import sys

import pytest
from optional_packages import needs_libtpu
from project_paths import ROOT

from clipvip_jax.cost_model import hbm_traffic

MIB = 2**20

# tanh(a @ b), float32 [4096, 4096], as compiled for v5e: `a` is copied to on-chip memory, S(1). XLA's count is 448 MiB.
PRODUCT = """HloModule jit_product, is_scheduled=true

%bitcast_fusion (bitcast_input: f32[4096,4096]) -> f32[4096,4096] {
  %bitcast_input = f32[4096,4096]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %bitcast = f32[4096,4096]{1,0:T(8,128)} bitcast(%bitcast_input)
}

%bitcast_fusion.1 (bitcast_input.1: f32[4096,4096]) -> f32[4096,4096] {
  %bitcast_input.1 = f32[4096,4096]{1,0:T(8,128)} parameter(0)
  ROOT %bitcast.1 = f32[4096,4096]{1,0:T(8,128)} bitcast(%bitcast_input.1)
}

%fused_computation (param_0.1: f32[4096,4096], param_1: f32[4096,4096]) -> f32[4096,4096] {
  %param_0.1 = f32[4096,4096]{1,0:T(8,128)S(1)} parameter(0)
  %fusion = f32[4096,4096]{1,0:T(8,128)} fusion(%param_0.1), kind=kLoop, calls=%bitcast_fusion
  %param_1 = f32[4096,4096]{1,0:T(8,128)} parameter(1)
  %fusion.1 = f32[4096,4096]{1,0:T(8,128)} fusion(%param_1), kind=kLoop, calls=%bitcast_fusion.1
  %convolution.1 = f32[4096,4096]{1,0:T(8,128)} convolution(%fusion, %fusion.1), dim_labels=bf_io->bf
  ROOT %tanh.0 = f32[4096,4096]{1,0:T(8,128)} tanh(%convolution.1), metadata={op_name="jit(f)/tanh"}
}

ENTRY %main.1 (a.1: f32[4096,4096], b.1: f32[4096,4096]) -> f32[4096,4096] {
  %a.1 = f32[4096,4096]{1,0:T(8,128)} parameter(0), metadata={op_name="a"}
  %copy-start = (f32[4096,4096]{1,0:T(8,128)S(1)}, f32[4096,4096]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a.1)
  %b.1 = f32[4096,4096]{1,0:T(8,128)} parameter(1), metadata={op_name="b"}
  %copy-done = f32[4096,4096]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  ROOT %convolution_tanh_fusion = f32[4096,4096]{1,0:T(8,128)} fusion(%copy-done, %b.1), kind=kOutput, \
calls=%fused_computation, metadata={op_name="jit(f)/jvp(Model)/vision/transformer/block_3/mlp/up/dot_general"}
}
"""

# A scan of 12 steps, tanh(c @ w[i]), float32 [1024, 1024], as compiled for v5e: x is read in four slices, w once and
# kept on the chip as bfloat16, and the result is written by a copy. XLA's count is 118 MiB.
SCAN = """HloModule jit_scan, is_scheduled=true

%slice_of_w (param_0.12: bf16[12,1024,1024], param_1.11: s32[]) -> bf16[1024,1024] {
  %param_0.12 = bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1.11 = s32[]{:T(128)S(6)} parameter(1)
  %constant.17 = s32[]{:T(128)} constant(0)
  %dynamic_slice.7 = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0.12, %param_1.11, %constant.17, \
%constant.17), dynamic_slice_sizes={1,1024,1024}
  ROOT %bitcast.8 = bf16[1024,1024]{1,0:T(8,128)(2,1)} bitcast(%dynamic_slice.7)
}

%step (param_0.13: f32[1024,1024], param_1.12: bf16[12,1024,1024], param_2.5: s32[]) -> f32[1024,1024] {
  %param_0.13 = f32[1024,1024]{1,0:T(8,128)S(1)} parameter(0)
  %param_1.12 = bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %param_2.5 = s32[]{:T(128)S(6)} parameter(2)
  %fusion.11 = bf16[1024,1024]{1,0:T(8,128)(2,1)} fusion(%param_1.12, %param_2.5), kind=kLoop, calls=%slice_of_w
  %convolution.5 = f32[1024,1024]{1,0:T(8,128)} convolution(%param_0.13, %fusion.11), dim_labels=bf_io->bf
  ROOT %tanh.3 = f32[1024,1024]{1,0:T(8,128)S(1)} tanh(%convolution.5)
}

%body (arguments: (s32[], f32[1024,1024], bf16[12,1024,1024])) -> (s32[], f32[1024,1024], bf16[12,1024,1024]) {
  %constant.12 = s32[]{:T(128)} constant(1)
  %arguments = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)}) \
parameter(0)
  %get-tuple-element.35 = s32[]{:T(128)} get-tuple-element(%arguments), index=0
  %copy.2 = s32[]{:T(128)S(6)} copy(%get-tuple-element.35)
  %add.2 = s32[]{:T(128)} add(%copy.2, %constant.12)
  %get-tuple-element.41 = bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%arguments), index=2
  %get-tuple-element.36 = f32[1024,1024]{1,0:T(8,128)S(1)} get-tuple-element(%arguments), index=1
  %copy.11 = f32[1024,1024]{1,0:T(8,128)S(1)} copy(%get-tuple-element.36)
  %fusion.13 = f32[1024,1024]{1,0:T(8,128)S(1)} fusion(%copy.11, %get-tuple-element.41, %copy.2), calls=%step
  ROOT %tuple.11 = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)}) \
tuple(%add.2, %fusion.13, %get-tuple-element.41)
}

%condition (arguments.1: (s32[], f32[1024,1024], bf16[12,1024,1024])) -> pred[] {
  %constant.14 = s32[]{:T(128)} constant(12)
  %arguments.1 = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)}) \
parameter(0)
  %get-tuple-element.15 = s32[]{:T(128)} get-tuple-element(%arguments.1), index=0
  ROOT %lt.0 = pred[]{:T(512)} compare(%get-tuple-element.15, %constant.14), direction=LT
}

ENTRY %main.4 (x.1: f32[1024,1024], w.1: f32[12,1024,1024]) -> f32[1024,1024] {
  %constant.7 = s32[]{:T(128)} constant(0)
  %w.1 = f32[12,1024,1024]{2,1,0:T(8,128)} parameter(1)
  %x.1 = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %slice-start = ((f32[1024,1024]{1,0:T(8,128)}), f32[256,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.1)
  %slice-start.1 = ((f32[1024,1024]{1,0:T(8,128)}), f32[256,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.1)
  %slice-start.2 = ((f32[1024,1024]{1,0:T(8,128)}), f32[256,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.1)
  %slice-start.3 = ((f32[1024,1024]{1,0:T(8,128)}), f32[256,1024]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x.1)
  %convert.1 = bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)} convert(%w.1)
  %slice-done = f32[256,1024]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %slice-done.1 = f32[256,1024]{1,0:T(8,128)S(1)} slice-done(%slice-start.1)
  %slice-done.2 = f32[256,1024]{1,0:T(8,128)S(1)} slice-done(%slice-start.2)
  %slice-done.3 = f32[256,1024]{1,0:T(8,128)S(1)} slice-done(%slice-start.3)
  %custom-call = f32[1024,1024]{1,0:T(8,128)S(1)} custom-call(%slice-done, %slice-done.1, %slice-done.2, \
%slice-done.3), custom_call_target="ConcatBitcast"
  %tuple.13 = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)}) \
tuple(%constant.7, %custom-call, %convert.1)
  %while = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[12,1024,1024]{2,1,0:T(8,128)(2,1)S(1)}) \
while(%tuple.13), condition=%condition, body=%body
  %get-tuple-element.43 = f32[1024,1024]{1,0:T(8,128)S(1)} get-tuple-element(%while), index=1
  %copy-start = (f32[1024,1024]{1,0:T(8,128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) \
copy-start(%get-tuple-element.43)
  ROOT %copy-done = f32[1024,1024]{1,0:T(8,128)} copy-done(%copy-start)
}
"""
COUNTER = 1000  # bytes that the counters of loops and indices move at most


def test_compiled_product_reads_both_factors_and_writes_the_result():
  # The copy of `a` has no name and counts to the product that uses it.
  assert hbm_traffic.by_module(PRODUCT) == {"vision/transformer/block/mlp/up": 3 * 64 * MIB}


def test_compiled_scan_reads_its_input_once_and_keeps_the_rest_on_the_chip():
  counted = sum(hbm_traffic.by_module(SCAN).values())
  assert 0 <= counted - (4 + 12 * 4 + 4) * MIB < COUNTER


def test_a_fusion_without_a_name_has_that_of_its_last_operation():
  names = hbm_traffic.op_names(
    PRODUCT.replace(', metadata={op_name="jit(f)/jvp(Model)/vision/transformer/block_3/mlp/up/dot_general"}', "")
  )
  assert names["convolution_tanh_fusion"] == names["copy-start"] == "jit(f)/tanh"


def test_a_loop_counts_once_per_trip():
  in_memory = SCAN.replace("(8,128)S(1)", "(8,128)").replace("(2,1)S(1)", "(2,1)")
  counted = sum(hbm_traffic.by_module(in_memory).values())
  # Each step copies the carry, and reads it, one slice of w and writes the result; before it, the conversion writes w.
  # Copies of x and of the result have both ends in memory.
  assert 0 <= counted - (8 + (12 * 4 + 24) + 12 * (8 + 4 + 2 + 4) + 8) * MIB < COUNTER


def entry(*lines, computations=""):
  body = "\n".join(f"  {line}" for line in lines)
  return f"{computations}\nENTRY %main (x: f32[1]) -> f32[1] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
  ("program", "expected"),
  [
    # A slice and an update in place move their own size, twice where both ends are in memory.
    (("%y = f32[8,128] dynamic-slice(%x, %i), dynamic_slice_sizes={8,128}",), 2 * 4096),
    (("%y = f32[8,128]{1,0:S(1)} dynamic-slice(%x, %i), dynamic_slice_sizes={8,128}",), 4096),
    (("%u = f32[8,128]{1,0:S(1)} parameter(2)", "%y = f32[4096,128] dynamic-update-slice(%x, %u, %i)"), 4096),
    # Tiles are padded: [49, 53] to [56, 128] of float32, [49, 64] to [56, 128] of bfloat16.
    (("%y = f32[2,49,53]{2,1,0:T(8,128)} custom-call(), custom_call_target=\"f\"",), 2 * 56 * 128 * 4),
    (("%y = bf16[49,64]{1,0:T(8,128)(2,1)} custom-call(), custom_call_target=\"f\"",), 56 * 128 * 2),
    # Transposed: the first axis is the minor one.
    (("%y = f32[53,49]{0,1:T(8,128)} custom-call(), custom_call_target=\"f\"",), 56 * 128 * 4),
    # Operands and results of a collective.
    (("%y = (f32[4096,128], f32[16,128]) all-reduce(%x, %z), to_apply=%add",), 2 * (4096 + 16) * 512),
    (("%y = (f32[16,128], f32[64,128]) all-gather-start(%z), dimensions={0}",), (16 + 64) * 512),
    (("%y = ((f32[4096,128]), f32[1024,128], u32[]) reduce-scatter-start(%x), to_apply=%add",), (4096 + 1024) * 512),
    # Likewise asynchronously, to the chip.
    (("%y = ((f32[4096,128], s32[]), f32[8,128]{1,0:S(1)}, u32[]) dynamic-slice-start(%x, %i)",), 4096),
    (("%u = f32[8,128]{1,0:S(1)} parameter(2)",
      "%y = ((f32[4096,128], f32[8,128]{1,0:S(1)}), f32[4096,128], u32[]) dynamic-update-slice-start(%x, %u, %i)",
    ), 4096),
    (("%y = f32[4096,128] bitcast(%x)", "%w = (f32[4096,128]) tuple(%y)"), 0),
  ],
)  # fmt: skip
def test_traffic_of_an_instruction(program, expected):
  parameters = (
    "%x = f32[4096,128]{1,0} parameter(0)",
    "%i = s32[]{:S(6)} parameter(1)",
    "%z = f32[16,128]{1,0} parameter(3)",
  )
  assert sum(hbm_traffic.by_module(entry(*parameters, *program)).values()) == expected


@pytest.mark.parametrize(
  ("body", "expected"),
  [
    # Two slices of the operand, of 8 rows each.
    (
      "%a = f32[8,128] slice(%p), slice={[0:8]}\n  %b = f32[8,128] slice(%p), slice={[8:16]}\n"
      "  ROOT %r = f32[8,128] add(%a, %b)",
      3 * 8 * 512,
    ),
    # A slice and a use of the complete operand.
    (
      "%a = f32[8,128] slice(%p), slice={[0:8]}\n  %n = f32[] reduce(%p), to_apply=%add\n"
      "  %b = f32[8,128] broadcast(%n)\n  ROOT %r = f32[8,128] add(%a, %b)",
      (4096 + 8) * 512,
    ),
    # An update in place of 8 rows, which another operand holds.
    ("ROOT %r = f32[4096,128] dynamic-update-slice(%p, %q, %q)", 2 * 8 * 512),
  ],
)
def test_a_fusion_counts_what_it_slices_and_updates(body, expected):
  computation = (
    "%fused (p: f32[4096,128], q: f32[8,128]) -> f32[8,128] {\n  %p = f32[4096,128] parameter(0)\n"
    f"  %q = f32[8,128] parameter(1)\n  {body}\n}}\n"
  )
  result = "f32[4096,128]" if "update" in body else "f32[8,128]"
  updates = "update" in body
  program = entry(
    "%x = f32[4096,128] parameter(0)",
    f"%y = f32[8,128]{'' if updates else '{1,0:S(1)}'} parameter(1)",
    f"ROOT %f = {result} fusion(%x, %y), kind=kLoop, calls=%fused",
    computations=computation,
  )
  assert sum(hbm_traffic.by_module(program).values()) == expected


@pytest.mark.parametrize(
  ("name", "module"),
  [
    ("jit(step)/transpose(jvp(ClipVip.embed_text))/text/transformer/jit(core_fn)/block_11/mlp/up/dot_general",
     "text/transformer/block/mlp/up"),
    ("jit(step)/jvp(ClipVip.embed_video)/vision/vision._embed/vision._embed_patches/convert_element_type", "vision"),
    ("jit(step)/jvp(C)/vision/transformer/jit(core_fn)/block_0/attention/...qd,...kd->...qk/dot_general",
     "vision/transformer/block/attention"),
    ("jit(step)/vision/block_0/attention/key/reshape;block/attention/add", "vision/block/attention/key"),
    ("jit(step)/transpose(jvp(C))/vision/transformer/jit(core_fn)/block_0/attention/block_0/attention/checkpoint/mul",
     "vision/transformer/block/attention"),
    ("jit(step)/transpose(jvp(C))/vision/transformer/checkpoint/rematted_computation/block_0/attention/key/dot_general",
     "vision/transformer/block/attention/key"),
    ("jit(step)/add", ""),
    ("proxy_attention_forward/pallas_call", "vision/transformer/block/attention"),  # of several devices
    ("proxy_attention_backward/pallas_call", "vision/transformer/block/attention"),
    ("jit(step)/jvp(C)/vision/transformer/jit(core_fn)/block_3/attention/proxy_attention_forward/pallas_call",
     "vision/transformer/block/attention"),
    ("", ""),
  ],
)  # fmt: skip
def test_module_of_an_operation(name, module):
  assert hbm_traffic.module_of(name) == module


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("jit(step)/transpose(jvp(ClipVip.embed_video))/vision/transformer/block_3/mlp/up/dot_general", True),
    ("jit(step)/jvp(ClipVip.embed_video)/vision/transformer/block_3/mlp/up/dot_general", False),
    ("proxy_attention_backward/pallas_call", True),
    ("proxy_attention_forward/pallas_call", False),
    ("jit(step)/transpose(jvp(ClipVip.embed_video))/vision/rematted/proxy_attention_forward/pallas_call", False),
  ],
)
def test_direction_of_an_operation(name, expected):
  assert hbm_traffic.is_backward(name) == expected


PROGRAMS = """
import json, sys
from clipvip_jax.cost_model import chips, hbm_traffic
device = chips.devices("v5e:2x2")[0]
import jax, jax.numpy as jnp
def count(function, *shapes):
  sharding = jax.sharding.SingleDeviceSharding(device)
  arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes]
  return sum(hbm_traffic.by_module(jax.jit(function).lower(*arguments).compile().as_text()).values())
square, weights = ((4096, 4096), jnp.float32), ((16, 4096, 4096), jnp.float32)
step = lambda s, w: (s[0] + 1, jnp.tanh(s[1] @ w[s[0]]))
print(json.dumps([
  count(lambda a, b: jnp.tanh(a @ b), square, square),
  count(lambda x, i: 2 * jax.lax.dynamic_slice(x, (i, 0), (256, 1024)), ((65536, 1024), jnp.float32), ((), jnp.int32)),
  count(lambda c, w: jax.lax.while_loop(lambda s: s[0] < 15, lambda s: step(s, w), (3, c))[1],
    ((1024, 4096), jnp.float32), weights),
  count(lambda x, i: 2 * x[i], ((65536, 1024), jnp.float32), ((512,), jnp.int32)),
  count(lambda p, x: jax.lax.cond(p, lambda x: 2 * x, lambda x: jnp.sin(x) @ x, x), ((), jnp.bool_), square),
]))
"""


@pytest.mark.slow
@needs_libtpu
def test_programs_compiled_for_a_tpu_move_what_they_must():
  # In a subprocess: libtpu holds its locks until the process ends.
  done = subprocess.run([sys.executable, "-c", PROGRAMS], cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  product, sliced, loop, gathered, branches = json.loads(done.stdout)
  assert 0 <= product - 3 * 64 * MIB < COUNTER
  assert 0 <= sliced - 2 * MIB < COUNTER
  # The weights become bfloat16 once, of which each of twelve steps reads a matrix; the carry stays on the chip.
  assert 0 <= loop - (16 * 64 + 16 * 32 + 12 * 32 + 2 * 16) * MIB < 20 * COUNTER
  assert 0 <= gathered - 4 * MIB < 5 * COUNTER  # indices
  assert 0 <= branches - 3 * 64 * MIB < COUNTER  # each branch reads x; the result stays on the chip until it is written
