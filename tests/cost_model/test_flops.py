"""Operations of a training step, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model import flops
from clipvip_jax.training.losses import LOSSES


def test_step_of_b32():
  config = post_pretrain.get_config("b32")
  embedding, *blocks, projection = flops.vision(config.model, 12)
  assert embedding.forward == 2 * (12 * 49) * (32 * 32 * 3) * 768
  assert projection.forward == 2 * 768 * 512
  assert len(blocks) == 12
  # 4 proxies and 12 frames of 49 patches: 592 tokens.
  assert blocks[0].dense == 592 * (4 * 2 * 768 * 768 + 2 * 2 * 768 * 3072)
  assert blocks[0].scores == 2 * 2 * (588 * 53 + 4 * 592) * 768
  # The last block computes one token.
  assert blocks[-1].dense == (592 + 1) * 2 * 2 * 768 * 768 + 2 * 2 * 768 * 3072
  assert blocks[-1].scores == 2 * 2 * 592 * 768
  text = flops.text(config.model, 70)
  assert text[0].dense == 70 * (4 * 2 * 512 * 512 + 2 * 2 * 512 * 2048)
  assert text[0].scores == 2 * 2 * 70 * 70 * 512
  assert text[-1].forward == 2 * 512 * 512
  counted = flops.step(config)
  assert counted["subtitle"] == 256 * 3 * (11 * text[0].forward + text[11].forward + text[-1].forward)
  assert counted["loss"] == 3 * 8 * 2 * 256 * 256 * 512
  assert counted["recomputed"] == 0
  # The patch embeddings are the first layers: their inputs have no gradient, but are counted as if they had one.
  assert 3 * flops.forward(config) == sum(counted.values())


def test_step_with_microbatches_remat_frozen_text_and_patch_dropout():
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
  blocks = sum(_vision_block(tokens).forward - 2 * tokens * 768 * 3072 for tokens in sizes)
  last = sum(flops.last_block("", tokens, 768, 3072).forward - 2 * 768 * 3072 for tokens in sizes)
  assert counted["recomputed"] == 256 * (forward + 11 * blocks + last)


def _vision_block(tokens):
  frames = 12 if tokens > 28 else 1
  return flops.block("", tokens, flops.proxy_guided_pairs(4, frames, 24), 768, 3072)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_the_counted_number_of_products(name):
  batch = {x: jnp.zeros((8, 4)) for x in LOSSES[name].uses}
  batch |= {f"{x}_mask": jnp.ones(8, bool) for x in ("subtitle", "caption")}
  program = jax.make_jaxpr(LOSSES[name])(batch, jnp.float32(0))
  assert str(program).count("dot_general") == flops.CONTRASTS[name]
