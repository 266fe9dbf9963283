"""HLO text as instructions, sizes and executions."""

import pytest

from clipvip_jax.cost_model import hlo_text

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body.1 (p: s32[]) -> s32[] {
  ROOT %next = s32[] fusion(%p), kind=kLoop, calls=%fused
}

%fused (p.1: s32[]) -> s32[] {
  ROOT %more = s32[] add(%p.1, %p.1)
}

%condition.1 (p.2: s32[]) -> pred[] {
  %bound = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%p.2, %bound), direction=LT
}

ENTRY %main (x: f32[8,128]) -> (s32[], f32[]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = f32[] constant(0)
  %total = f32[] reduce(%x, /*index=1*/%zero), to_apply=%add, metadata={op_name="jit(step)/reduce_sum"}
  %loop = s32[] while(%start), condition=%condition.1, body=%body.1
  ROOT %both = (s32[], f32[]) tuple(%loop, %total)
}
"""


def test_instructions_have_operands_calls_and_names():
  bodies = dict(hlo_text.computations(PROGRAM))
  assert bodies.keys() == {"add", "body.1", "fused", "condition.1", ""}
  total, loop, both = hlo_text.instructions(bodies[""])[2:]
  assert (total.op, total.operands, total.called, total.op_name) == (
    "reduce", ("x", "zero"), ["add"], "jit(step)/reduce_sum",
  )  # fmt: skip
  assert (loop.op, loop.operands, loop.called, loop.op_name) == ("while", ("start",), ["condition.1", "body.1"], "")
  assert both.is_root and not loop.is_root and len(both.arrays) == 2


def test_bodies_execute_once_per_trip():
  bodies = dict(hlo_text.computations(PROGRAM))
  assert hlo_text.executions(bodies) == {"": 1, "add": 1, "condition.1": 12, "body.1": 12, "fused": 12}
  assert hlo_text.executions(bodies, ("while",)) == {"": 1, "add": 0, "condition.1": 12, "body.1": 12, "fused": 0}
  unknown = dict(hlo_text.computations(PROGRAM.replace("constant(12)", "parameter(1)")))
  assert hlo_text.executions(unknown)["body.1"] == 1


@pytest.mark.parametrize(
  ("start", "trips"), [("constant(0)", 15), ("constant(3)", 12), ("constant(-2)", 17), ("parameter(1)", 15)]
)
@pytest.mark.parametrize("value", ["%start", "%copy.1"])
def test_a_loop_counts_from_its_initial_value(start, trips, value):
  program = f"""%body (p: (f32[], s32[])) -> (f32[], s32[]) {{
  ROOT %next = (f32[], s32[]) fusion(%p), kind=kLoop, calls=%fused
}}

%condition (p.2: (f32[], s32[])) -> pred[] {{
  %p.2 = (f32[], s32[]) parameter(0)
  %bound = s32[]{{:T(128)}} constant(15)
  %counter = s32[]{{:T(128)}} get-tuple-element(%p.2), index=1
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}}

ENTRY %main (x: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %start = s32[]{{:T(128)}} {start}
  %copy.1 = s32[]{{:T(128)S(6)}} copy(%start)
  %first = (f32[], s32[]{{:T(128)}}) tuple(%x, {value})
  ROOT %loop = (f32[], s32[]) while(%first), condition=%condition, body=%body
}}
"""
  assert hlo_text.executions(dict(hlo_text.computations(program)), ("while",))["body"] == trips


@pytest.mark.parametrize(
  "branches", ["branch_computations={%one, %two}", "true_computation=%one, false_computation=%two"]
)
def test_every_branch_of_a_conditional_executes_once(branches):
  branch = "%{} (p: f32[]) -> f32[] {{\n  ROOT %r{} = f32[] negate(%p)\n}}\n\n"
  entry = f"ENTRY %main (x: f32[]) -> f32[] {{\n  ROOT %c = f32[] conditional(%i, %x, %x), {branches}\n}}\n"
  bodies = dict(hlo_text.computations(branch.format("one", 1) + branch.format("two", 2) + entry))
  assert hlo_text.executions(bodies, ("conditional",)) == {"": 1, "one": 1, "two": 1}


@pytest.mark.parametrize(
  ("text", "sizes"),
  [
    ("(f32[4], f32[8], u32[]) copy-start(%x)", [16]),
    ("(f32[4], f32[8]) all-gather-start(%x)", [32]),
    ("(f32[4], f32[8]) all-reduce-start(%x, %y)", [16, 32]),
    ("((f32[4]), f32[2], s32[]) slice-start(%x)", [8]),
    ("((f32[4], s32[]), f32[2], u32[]) dynamic-slice-start(%x, %i)", [8]),
    ("((f32[4]), f32[2], u32[]) reduce-scatter-start(%x)", [8]),
    ("((f32[4], f32[4]), (f32[2], f32[2]), u32[]) all-to-all-start(%x, %y)", [8, 8]),
    ("(f32[4], f32[8]) tuple(%x, %y)", [16, 32]),
  ],
)
def test_results_of_asynchronous_instructions_exclude_operands_and_context(text, sizes):
  (instruction,) = hlo_text.instructions([f"  %r = {text}"])
  assert [x.size for x in instruction.results] == sizes


@pytest.mark.parametrize(
  ("text", "size", "padded", "space"),
  [
    ("f32[]", 4, 4, 0),
    ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2048, 2048, 1),
    ("f32[8,12,12,49,53]{4,3,2,1,0:T(8,128)}", 4 * 8 * 144 * 49 * 53, 4 * 8 * 144 * 56 * 128, 0),
    ("f32[512]{0:T(1024)}", 2048, 4096, 0),
    ("pred[3,5]", 15, 15, 0),
    ("f8e4m3fn[16]{0:S(5)}", 16, 16, 5),
    ("s4[8]", 8, 8, 0),
  ],
)
def test_size_padding_and_memory_space_of_an_array(text, size, padded, space):
  assert hlo_text.arrays(text) == [hlo_text.Array(size, padded, space)]


def test_elements_of_a_tuple():
  text = "((f32[2,3]{1,0}), /*index=1*/f32[4]{0:S(1)}, u32[])"
  assert hlo_text.tuple_elements(text) == ["(f32[2,3]{1,0})", " f32[4]{0:S(1)}", " u32[]"]
  assert hlo_text.tuple_elements("f32[2,3]") == ["f32[2,3]"]
