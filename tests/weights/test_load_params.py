"""What a model starts from where the weights lack a part of it."""

import numpy as np
import pytest
import tiny
from flax import traverse_util

from clipvip_jax.weights import load_params, sources


def weights_of(net):
  flat = traverse_util.flatten_dict(tiny.random_params(net), sep="/")
  flat = {name: np.asarray(x) for name, x in flat.items()}
  return sources.Weights("weights", flat, tiny.config(), is_clip=False)


@pytest.mark.parametrize("embed_dim", [48, 32])
def test_a_transformer_over_frames_starts_as_the_text_towers_first_blocks(monkeypatch, embed_dim):
  given = weights_of(tiny.model(embed_dim=embed_dim))
  monkeypatch.setattr(load_params, "read_weights", lambda source: given)
  net = tiny.model(embed_dim=embed_dim, temporal="sequence", sequence_layers=2)
  loaded = load_params.load_params("weights", tiny.random_params(net))
  sequence = {name: x for name, x in loaded.items() if name.startswith("sequence/")}
  if embed_dim != 48:  # as wide as the text tower: otherwise its blocks do not fit
    assert not sequence
    return
  assert len(sequence) == 2 * 16 + 1
  for name, value in sequence.items():
    np.testing.assert_array_equal(value, given.params[name.replace("sequence/", "text/")])


def test_a_transformer_over_frames_that_was_trained_is_loaded_as_it_is(monkeypatch):
  net = tiny.model(embed_dim=48, temporal="sequence", sequence_layers=2)
  given = weights_of(net)
  monkeypatch.setattr(load_params, "read_weights", lambda source: given)
  loaded = load_params.load_params("weights", tiny.random_params(net))
  name = "sequence/transformer/block_0/mlp/up/kernel"
  np.testing.assert_array_equal(loaded[name], given.params[name])
