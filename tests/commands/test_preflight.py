"""Steps compiled for hardware that is not there, and what is read from them."""

import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh
from project_paths import ROOT

from clipvip_jax import preflight
from clipvip_jax.cost_model import chips, flops, hlo_collectives, step_cost
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip
from clipvip_jax.training.losses import LOSSES
from clipvip_jax.utils import recipe_flags
from clipvip_jax.utils.errors import UserError
from configs import post_pretrain

SMALL = ("--config=configs/post_pretrain.py:smoke", "--config.loss=fc")

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


def test_collectives_are_read_from_the_program_with_loops_and_without_repetitions():
  found = {(one.kind, one.whole, one.group, one.times) for one in hlo_collectives.read_collectives(HLO, 8)}
  assert found == {
    ("all-gather", 256, 8, 1),  # both of them
    ("all-reduce", 27, 2, 1),
    ("reduce-scatter", 128, 4, 1),
    ("collective-permute", 12, 8, 1),
    ("all-to-all", 16, 8, 1),
    ("reduce-scatter", 256, 8, 1),
    ("all-reduce", 128, 4, 12),
  }
  assert len(hlo_collectives.read_collectives(HLO, 8)) == 8
  assert "jit(step)/gather" in {one.source for one in hlo_collectives.read_collectives(HLO, 8)}


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
def test_groups_that_reach_over_nodes_are_as_slow_as_the_network(groups, span):
  hlo = (
    f"ENTRY %main (a: f32[4]) -> f32[4] {{\n  %x = f32[4] all-reduce(%a), replica_groups={groups}, to_apply=%add\n}}"
  )
  (found,) = hlo_collectives.read_collectives(hlo, 16)
  assert found.span == span
  chip = chips.CHIPS["h100"]
  assert chip.sending(found.span) == (chip.interconnect if span <= 8 else chip.network)


@pytest.mark.parametrize("name", chips.CHIPS)
def test_chips_are_known_by_the_name_that_jax_gives_them(name):
  chip = chips.CHIPS[name]
  assert chips.chip_of_kind(chip.kind if chip.is_tpu else f"{chip.kind} 80GB HBM3") is chip
  assert chips.chip_of_kind("cpu") is None


@pytest.mark.parametrize(("dropout", "whole", "left"), [(0.5, 0.1, 0.0), (0.5, 0.0, 0.5), (0.0, 0.1, 0.0)])
def test_of_steps_with_and_without_patches_left_out_the_larger_must_fit(dropout, whole, left):
  config = post_pretrain.get_config("b32")
  config.model.patch_dropout, config.train.unmasked_fraction = dropout, whole
  assert preflight._of_whole_clips(config).model.patch_dropout == left
  assert config.model.patch_dropout == dropout


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: no TPU compiler")
def test_axes_of_a_slice_that_are_too_long_are_split():
  code = "from clipvip_jax.cost_model import chips; from clipvip_jax.distributed import sharding; "
  code += "devices = chips.devices('v6e:4x8'); "
  code += "print(dict(sharding.make_mesh({'data': -1, 'fsdp': 2, 'tensor': 1}, devices).shape))"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.stdout.strip() == "{'data': 16, 'fsdp': 2, 'tensor': 1}", done.stderr


def test_what_a_chip_sends_is_that_of_a_ring():
  sent = {kind: hlo_collectives.Collective(kind, 100, 4, times=2).sent for kind in hlo_collectives.KINDS}
  assert sent == {
    "all-reduce": 300,
    "all-gather": 150,
    "reduce-scatter": 150,
    "all-to-all": 150,
    "collective-permute": 200,
  }


def test_a_step_of_b32_as_counted_by_hand():
  config = post_pretrain.get_config("b32")
  embedding, *blocks, projection = flops.vision(config.model, 12)
  assert embedding.forward == 2 * (12 * 49) * (32 * 32 * 3) * 768
  assert projection.forward == 2 * 768 * 512
  assert len(blocks) == 12
  # 4 proxies and 12 frames of 49 patches: 592 tokens.
  assert blocks[0].dense == 592 * (4 * 2 * 768 * 768 + 2 * 2 * 768 * 3072)
  assert blocks[0].scores == 2 * 2 * (588 * 53 + 4 * 592) * 768
  # Of the last block one token is read.
  assert blocks[-1].dense == (592 + 1) * 2 * 2 * 768 * 768 + 2 * 2 * 768 * 3072
  assert blocks[-1].scores == 2 * 2 * 592 * 768
  words = flops.text(config.model, 70)
  assert words[0].dense == 70 * (4 * 2 * 512 * 512 + 2 * 2 * 512 * 2048)
  assert words[0].scores == 2 * 2 * 70 * 70 * 512
  assert words[-1].forward == 2 * 512 * 512
  counted = flops.step(config)
  assert counted["subtitle"] == 256 * 3 * (11 * words[0].forward + words[11].forward + words[-1].forward)
  assert counted["loss"] == 3 * 8 * 2 * 256 * 256 * 512
  assert counted["again"] == 0


def test_what_is_repeated_frozen_or_left_out_is_counted_so():
  plain = flops.step(post_pretrain.get_config("b32"))
  config = post_pretrain.get_config("b32,remat,frozen_text,patch_dropout").copy_and_resolve_references()
  config.unlock()
  config.train.num_microbatches = 2
  counted = flops.step(config)
  assert counted["subtitle"] == plain["subtitle"] // 3  # forward alone
  assert counted["video"] < 0.55 * plain["video"]
  layers = {"video": flops.vision(config.model, 12), "frame": flops.vision(config.model, 1)}
  forward = sum(layer.forward for tower in layers.values() for layer in tower)
  forward += 2 * sum(layer.forward for layer in flops.text(config.model, 70))
  sizes = 4 + 12 * 24, 4 + 24
  blocks = sum(_one(tokens).forward - 2 * tokens * 768 * 3072 for tokens in sizes)
  last = sum(flops.last_block("", tokens, 768, 3072).forward - 2 * 768 * 3072 for tokens in sizes)
  assert counted["again"] == 256 * (forward + 11 * blocks + last)


def _one(tokens):
  frames = 12 if tokens > 28 else 1
  return flops.block("", tokens, flops.proxy_guided_pairs(4, frames, 24), 768, 3072)


def test_what_a_tensor_axis_sums_as_counted_by_hand():
  config = post_pretrain.get_config("smoke").copy_and_resolve_references()
  config.unlock()
  config.loss = "fc"
  config.model.text.layers = 3
  mesh = AbstractMesh((2, 1, 2), sharding.AXES)
  *_, found = hlo_collectives.required_collectives(config, mesh, clip_vip.parameter_shapes(config.model))
  # 16 clips on two shares; 4 proxies and 16 patches, one block; 28 words, three blocks; both 32 wide. Halves of a block
  # sum what comes out and the gradient by what goes in; of the last block, one token but for its keys and values.
  frame = 20 + 3
  caption = 2 * 4 * 28 + 28 + 3
  assert found.group == 2 and found.whole == 8 * (frame + caption) * 32 * 4


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_products_that_are_counted(name):
  batch = {x: jnp.zeros((8, 4)) for x in LOSSES[name].uses}
  batch |= {f"{x}_mask": jnp.ones(8, bool) for x in ("subtitle", "caption")}
  program = jax.make_jaxpr(LOSSES[name])(batch, jnp.float32(0))
  assert str(program).count("dot_general") == flops.CONTRASTS[name]


@pytest.mark.parametrize(
  ("topology", "words"),
  [
    ("v9:4x8", "no chip 'v9'; allowed: v5e:4x8, v5p:2x2x4, v6e:4x8, a100:8"),
    ("v5e", "no such size; allowed are such as v5e:4x8"),
    ("v5e:2x2x2", "no such size; allowed are such as v5e:4x8"),
    ("v5p:4x4", "no such size; allowed are such as v5p:2x2x4"),
    ("h100:0", "no such size; allowed are such as h100:8"),
    ("h100:12", "nodes of 8"),
  ],
)
def test_a_topology_that_does_not_exist_is_refused_with_some_that_do(topology, words):
  with pytest.raises(UserError, match=words):
    preflight.main([*SMALL, f"--topology={topology}"])


def test_without_libtpu_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'jax\[tpu\]'"):
    chips.devices("v5e:2x2")


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("--config.train.batch_size=18", r"train.batch_size=18 cannot be divided by 4.*16 and 20"),
    ("--config.mesh.fsdp=3", "mesh.fsdp=3.*4 devices"),
    ("--config.train.batch=18", "config.train has no field 'batch'"),
    ("--topolgy=v5e:2x2", "topolgy"),
    ("more", "unexpected argument 'more'"),
  ],
)
def test_bad_input_is_refused_before_anything_is_compiled(override, words):
  with pytest.raises(UserError, match=words):
    preflight.main([*SMALL, "--topology=h100:4", override])


def test_overrides_reach_the_recipe():
  assert recipe_flags.parse_config([*SMALL, "--config.train.batch_size=32"]).train.batch_size == 32


def test_a_small_step_for_eight_gpus(tmp_path, capsys):
  # Many clips, beside which the optimiser's own arithmetic is small.
  many = "--config.train.batch_size=256"
  preflight.main([*SMALL, many, "--topology=h100:8", f"--json={tmp_path / 'report.json'}"])
  printed = capsys.readouterr().out
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["fits"]
  assert report["flops_compiled"] == pytest.approx(sum(report["flops_counted"].values()), rel=0.1)
  assert report["sent"] <= 1.25 * report["sent_needed"]
  shapes = clip_vip.parameter_shapes(recipe_flags.parse_config(SMALL).model)
  params = sum(x.size for x in jax.tree.leaves(shapes))
  assert report["memory"]["parameters"] == 4 * params
  assert report["memory"]["optimiser moments"] == pytest.approx(8 * params, rel=0.01)
  for line in ("(estimated", "of what is counted", "the method needs", "bound by memory", ": fits"):
    assert line in printed


def test_what_does_not_fit_ends_with_its_exit_code_and_says_how_much_would(monkeypatch, capsys):
  cost = step_cost.Cost({"parameters": 70e9}, 1.0, 1.0, (), (), {"video": 1, "again": 0}, 1.0)
  monkeypatch.setattr(step_cost, "measure", lambda config, mesh: cost)
  with pytest.raises(SystemExit) as stop:
    preflight.main([*SMALL, "--topology=h100:8"])
  assert stop.value.code == preflight.DOES_NOT_FIT
  assert "65.19 GiB of 74.51 GiB, of which JAX takes 55.88 GiB: does not fit" in capsys.readouterr().out


def test_a_refusal_of_the_compiler_is_an_answer(monkeypatch, capsys):
  message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded"
  used = step_cost._used(message)
  assert used == 17.5 * 2**30

  def measure(config, mesh):
    size = config.train.batch_size
    if size > 16:
      raise step_cost.TooLarge(used)
    return step_cost.Cost({"all": 10 * 2**30}, 1.0, 1.0, (), (), {"video": 1, "again": 0}, 1.0)

  monkeypatch.setattr(step_cost, "measure", measure)
  monkeypatch.setattr(chips, "devices", lambda topology: jax.devices()[:4])
  with pytest.raises(SystemExit) as stop:
    preflight.main([*SMALL, "--topology=v5e:2x2", "--config.train.batch_size=32", "--largest_batch"])
  assert stop.value.code == preflight.DOES_NOT_FIT
  printed = capsys.readouterr().out
  assert "17.50 GiB of 16.00 GiB: does not fit" in printed
  assert "compiled ones: 28" in printed  # 10 GiB for 4 clips a chip, 17.5 for 8: 16 for 7.2, so 7 on each of 4


def test_the_largest_share_is_that_of_the_line_and_a_multiple():
  chip = chips.CHIPS["v5e"]
  gib = chips.GIB
  assert step_cost.share_that_fits({4: 6 * gib, 8: 10 * gib}, chip, 1) == 14
  assert step_cost.share_that_fits({4: 6 * gib, 8: 10 * gib}, chip, 4) == 12
  assert step_cost.share_that_fits({4: 20 * gib, 8: 24 * gib}, chip, 1) == 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: no TPU compiler")
def test_a_small_step_for_four_tpus_whose_parameters_are_split(tmp_path):
  # In a process of its own: what libtpu takes, it keeps.
  report = tmp_path / "report.json"
  options = ["--topology=v5e:2x2", "--config.mesh.fsdp=2", f"--json={report}"]
  command = [sys.executable, "-m", "clipvip_jax.preflight", *SMALL, *options]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert "of 16.00 GiB: fits" in done.stdout
  assert not done.stderr
  found = json.loads(report.read_text())
  # Parameters left where they are would move activations, in an all-to-all.
  assert set(found["collectives"]) == {"all-gather", "all-reduce", "reduce-scatter"}
  assert found["sent"] <= 1.25 * found["sent_needed"]
