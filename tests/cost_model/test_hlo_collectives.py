"""Collectives parsed from HLO text."""

import pytest

from clipvip_jax.cost_model import chips, hlo_collectives

HLO = """HloModule jit_step

%body.1 (p: f32[8,4]) -> f32[8,4] {
  ROOT %all-reduce.7 = f32[8,4]{1,0} all-reduce(%p), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%add
}

%condition.1 (p: f32[8,4]) -> pred[] {
  ROOT %done = pred[] constant(true)
}

%all-reduce-scatter.2 (p: f32[64]) -> f32[8] {
  %all-reduce.9 = f32[64]{0} all-reduce(%p), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[8]{0} dynamic-slice(%all-reduce.9, %id), dynamic_slice_sizes={8}
}

%starts (p: f32[2,4]) -> f32[16,4] {
  ROOT %all-gather.1 = f32[16,4]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, \
frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/gather"}
}

%async_collective_fusion.3 (p: f32[2,4]) -> f32[16,4] {
  ROOT %all-gather.2 = f32[16,4]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, \
frontend_attributes={chain_id="0"}
}

%unused (p: bf16[128]) -> bf16[128] {
  ROOT %all-reduce.8 = bf16[128]{0} all-reduce(%p), to_apply=%add
}

ENTRY %main.5 (a: f32[2,4]) -> f32[8,4] {
  %all-gather-start = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%a), replica_groups={}, dimensions={0}
  %all-gather-done = f32[16,4]{1,0} all-gather-done(%all-gather-start)
  %fusion = f32[16,4]{1,0} fusion(%a), kind=kCustom, calls=%starts
  %fusion.1 = f32[16,4]{1,0} fusion(%a), kind=kCustom, calls=%async_collective_fusion.3
  %all-reduce.3 = (bf16[10]{0:T(256)}, f32[], /*index=2*/pred[3]) all-reduce(%x, %y, %z), \
replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %reduce-scatter.1 = f32[2,4]{1,0} reduce-scatter(%b), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}
  %permute = (f32[3], f32[3], u32[], u32[]) collective-permute-start(%c), source_target_pairs={{0,1},{1,0}}
  %all-to-all = s8[8,2] all-to-all(%d), replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'a','b'}
  %scatter = f32[8] fusion(%e), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %while = f32[8,4] while(%f), condition=%condition.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_collectives_count_loop_iterations_and_skip_repeated_chains():
  collectives = hlo_collectives.read_collectives(HLO, 8)
  assert {(x.kind, x.size, x.group, x.times) for x in collectives} == {
    ("all-gather", 256, 8, 1),  # both of them
    ("all-reduce", 27, 2, 1),
    ("reduce-scatter", 128, 4, 1),
    ("collective-permute", 12, 8, 1),
    ("all-to-all", 16, 8, 1),
    ("reduce-scatter", 256, 8, 1),
    ("all-reduce", 128, 4, 12),
  }
  assert len(collectives) == 8
  assert "jit(step)/gather" in {x.origin for x in collectives}


@pytest.mark.parametrize(
  ("groups", "span"),
  [
    ("{{0,1,2,3,4,5,6,7},{8,9,10,11,12,13,14,15}}", 8),
    ("{{0,8},{1,9},{2,10},{3,11},{4,12},{5,13},{6,14},{7,15}}", 9),
    ("[2,8]<=[16]", 8),
    ("[8,2]<=[2,8]T(1,0)", 9),
    ("[1,16]<=[16]", 16),
  ],
)
def test_groups_across_nodes_are_limited_by_the_network(groups, span):
  hlo = (
    f"ENTRY %main (a: f32[4]) -> f32[4] {{\n  %x = f32[4] all-reduce(%a), replica_groups={groups}, to_apply=%add\n}}"
  )
  (collective,) = hlo_collectives.read_collectives(hlo, 16)
  assert collective.span == span
  chip = chips.CHIPS["h100"]
  assert chip.sending(collective.span) == (chip.interconnect if span <= 8 else chip.network)


@pytest.mark.parametrize(
  ("instruction", "kind", "size"),
  [
    ("f32[4] reduce-scatter(%a)", "reduce-scatter", 4 * 16),
    ("((f32[16]), f32[4], u32[]) reduce-scatter-start(%a)", "reduce-scatter", 4 * 16),
    ("((f32[16], f32[8]), (f32[16], f32[8]), u32[]) all-to-all-start(%a, %b)", "all-to-all", 4 * 24),
    ("(f32[4], f32[16]) all-gather-start(%a)", "all-gather", 4 * 16),
    ("f32[16] all-reduce-start(%a)", "all-reduce", 4 * 16),
  ],
)
def test_asynchronous_collectives_have_the_size_of_what_they_send(instruction, kind, size):
  hlo = f"ENTRY %main (a: f32[4]) -> f32[4] {{\n  %x = {instruction}, replica_groups={{{{0,1,2,3}}}}\n}}"
  (collective,) = hlo_collectives.read_collectives(hlo, 4)
  assert (collective.kind, collective.size) == (kind, size)
