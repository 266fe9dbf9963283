"""Communication of the method, counted by hand."""

import jax
from jax.sharding import AbstractMesh

from clipvip_jax.configs import post_pretrain
from clipvip_jax.cost_model import communication
from clipvip_jax.distributed import sharding
from clipvip_jax.models import clip_vip


def smoke_config():
  config = post_pretrain.get_config("smoke").copy_and_resolve_references()
  config.unlock()
  config.loss = "fc"
  return config


def required(config, shape):
  mesh = AbstractMesh(shape, sharding.AXES)
  return communication.required_collectives(config, mesh, clip_vip.parameter_shapes(config.model))


def test_one_device_needs_no_communication():
  assert required(smoke_config(), (1, 1, 1)) == []


def test_data_axis_gathers_features_and_reduces_every_gradient():
  config = smoke_config()
  gather, scatter, reduce = required(config, (4, 1, 1))
  batch, embed_dim = config.train.batch_size, config.model.embed_dim
  assert (gather.kind, gather.size, gather.group) == ("all-gather", 2 * 4 * batch * embed_dim + batch, 4)
  assert (scatter.kind, scatter.size) == ("reduce-scatter", 2 * 4 * batch * embed_dim)
  params = sum(x.size for x in jax.tree.leaves(clip_vip.parameter_shapes(config.model)))
  assert (reduce.kind, reduce.size) == ("all-reduce", 4 * params)


def test_fsdp_axis_gathers_parameters_once_more_with_microbatches():
  config = smoke_config()
  sizes = []
  for num_microbatches in (1, 2):
    config.train.num_microbatches = num_microbatches
    sizes += [x.size for x in required(config, (2, 2, 1)) if x.origin == "parameters"]
  assert sizes[1] == 2 * sizes[0] > 0


def test_tensor_axis_reduces_outputs_of_attention_and_mlp():
  config = smoke_config()
  config.model.text.layers = 3
  *_, reduce = required(config, (2, 1, 2))
  # 16 clips on two shards; 4 proxies and 16 patches, one block; 28 tokens, three blocks; both of width 32. Attention
  # and MLP reduce their output and the gradient of their input; the last block one token, but for its keys and values.
  frame = 20 + 3
  caption = 2 * 4 * 28 + 28 + 3
  assert reduce.group == 2 and reduce.size == 8 * (frame + caption) * 32 * 4
