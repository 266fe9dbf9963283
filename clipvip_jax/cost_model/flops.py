"""Floating-point operations of a training step, counted from the configuration.

Only matrix products count, two operations per multiply-add.

Letters: B global batch, T frames, L patches per frame, M proxies, N tokens, D width, E embedding size.
"""

import dataclasses
from collections.abc import Sequence

from ml_collections import ConfigDict

from clipvip_jax.training.losses import LOSSES
from clipvip_jax.training.optimizer import is_frozen

# Products [B, E] x [E, B] of each loss: one per direction of every contrast and per kind of negatives.
CONTRASTS = {
  "vs": 2,
  "vs_fc": 4,
  "vs_vc": 4,
  "vs_vc_fc": 6,
  "vsc": 6,
  "vsc_fc": 8,
  "joint_batch": 8,
  "vs_dual_softmax": 4,
  "fc": 2,
}


@dataclasses.dataclass(frozen=True)
class Layer:
  """Operations of one layer in the forward pass of one sample.

  Attributes:
    name: prefix of its parameters' names.
    dense: products with parameters.
    scores: products of activations with each other.
    recomputed: operations that `model.remat` repeats in the backward pass.
  """

  name: str
  dense: int
  scores: int = 0
  recomputed: int = 0

  @property
  def forward(self) -> int:
    """Operations of the forward pass."""
    return self.dense + self.scores


def dense(rows: int, inputs: int, outputs: int) -> int:
  """Returns the operations of a product [rows, inputs] x [inputs, outputs]."""
  return 2 * rows * inputs * outputs


def attention(pairs: int, width: int) -> int:
  """Returns the operations of scores and weighted sum of values for `pairs` of query and key, over all heads."""
  return 2 * dense(pairs, width, 1)


def proxy_guided_pairs(proxies: int, frames: int, patches: int) -> int:
  """Counts the scores of proxy-guided attention: T L (M + L) of the patches and M (M + T L) of the proxies."""
  return frames * patches * (proxies + patches) + proxies * (proxies + frames * patches)


def block(name: str, tokens: int, pairs: int, width: int, mlp: int) -> Layer:
  """Returns a block of a tower, in which `pairs` of query and key have scores."""
  projections = 4 * dense(tokens, width, width)
  up, down = dense(tokens, width, mlp), dense(tokens, mlp, width)
  scores = attention(pairs, width)
  # The gradient does not need the output of the last product, so all but that is recomputed.
  return Layer(name, projections + up + down, scores, projections + up + scores)


def last_block(name: str, tokens: int, width: int, mlp: int) -> Layer:
  """Returns the last block: keys and values of all tokens, everything else of the one that the feature is read from."""
  projections = 2 * dense(1, width, width) + 2 * dense(tokens, width, width)
  up, down = dense(1, width, mlp), dense(1, mlp, width)
  scores = attention(tokens, width)
  return Layer(name, projections + up + down, scores, projections + up + scores)


def _tower(name: str, layers: int, tokens: int, pairs: int, width: int, mlp: int) -> list[Layer]:
  """Returns the blocks of a tower."""
  blocks = [block(f"{name}/transformer/block_{i}/", tokens, pairs, width, mlp) for i in range(layers - 1)]
  return [*blocks, last_block(f"{name}/transformer/block_{layers - 1}/", tokens, width, mlp)]


def _times(count: int, layer: Layer) -> Layer:
  return Layer(layer.name, count * layer.dense, count * layer.scores, count * layer.recomputed)


def vision(model: ConfigDict, frames: int, *, training: bool = True) -> list[Layer]:
  """Returns the layers of the vision tower and of a sequence transformer on a clip.

  Args:
    model: `config.model`.
    frames: of the clip.
    training: whether patch dropout applies.
  """
  tower, sizes = model.vision, model.image_size // model.patch_size
  by_frame = model.temporal in ("mean", "sequence")
  clips, each = (frames, 1) if by_frame else (1, frames)
  patches = sizes**2
  embedding = Layer("vision/patch_embedding", dense(each * patches, 3 * model.patch_size**2, tower.width))
  dropout = model.get("patch_dropout", 0.0) if training else 0.0
  patches = max(1, round((1 - dropout) * patches)) if dropout else patches
  proxies = 1 + tower.added_proxies
  tokens = proxies + each * patches
  pairs = tokens**2 if model.temporal == "full" else proxy_guided_pairs(proxies, each, patches)
  blocks = _tower("vision", tower.layers, tokens, pairs, tower.width, tower.mlp)
  projection = Layer("vision/projection", dense(1, tower.width, model.embed_dim))
  layers = [_times(clips, layer) for layer in (embedding, *blocks, projection)]
  return layers + (_sequence(model, frames) if model.temporal == "sequence" else [])


def _sequence(model: ConfigDict, frames: int) -> list[Layer]:
  names = [f"sequence/transformer/block_{i}/" for i in range(model.sequence_layers)]
  blocks = [block(name, frames, frames**2, model.embed_dim, model.text.mlp) for name in names]
  return [dataclasses.replace(layer, recomputed=0) for layer in blocks]  # never rematerialised


def text(model: ConfigDict, tokens: int) -> list[Layer]:
  """Returns the layers of the text tower on one text. Scores hidden by the causal mask are computed."""
  tower = model.text
  blocks = _tower("text", tower.layers, tokens, tokens**2, tower.width, tower.mlp)
  return [*blocks, Layer("text/projection", dense(1, tower.width, model.embed_dim))]


def _inputs(config: ConfigDict) -> dict[str, Sequence[Layer]]:
  """Returns {input that the loss uses: layers of its tower}."""
  model = config.model
  inputs: dict[str, Sequence[Layer]] = {
    "video": vision(model, config.data.num_frames),
    "frame": vision(model, 1),
    "subtitle": text(model, config.data.text_length),
    "caption": text(model, config.data.text_length),
  }
  return {name: layers for name, layers in inputs.items() if name in LOSSES[config.loss].uses}


def forward(config: ConfigDict) -> int:
  """Returns the operations of the forward pass and the loss of one training step over the global batch."""
  layers = (layer for layers in _inputs(config).values() for layer in layers)
  return config.train.batch_size * sum(layer.forward for layer in layers) + step(config)["loss"] // 3


def step(config: ConfigDict) -> dict[str, int]:
  """Returns the operations of one training step over the global batch, by part.

  A backward pass costs two forward passes: one product for the gradient of the inputs, one for that of the parameters,
  if trained. Layers below the first trained one have no gradients.

  Args:
    config: the complete configuration.

  Returns:
    {part: operations}: a tower's input ("video", "frame", "subtitle", "caption"), "loss" and "recomputed".
  """
  inputs, batch = _inputs(config), config.train.batch_size
  towers = {name: batch * _forward_and_backward(layers, config) for name, layers in inputs.items()}
  recomputed = sum(batch * _recomputed(layers, config) for layers in inputs.values())
  loss = 3 * CONTRASTS[config.loss] * dense(batch, config.model.embed_dim, batch)
  return {**towers, "loss": loss, "recomputed": recomputed}


def _trained_from(layers: Sequence[Layer], config: ConfigDict) -> int:
  """Returns the index of the first trained layer; token embeddings precede all layers of the text tower."""
  frozen = config.optimizer.frozen
  if layers[0].name.startswith("text/") and not is_frozen("text/token_embedding", frozen):
    return 0
  return next((i for i, layer in enumerate(layers) if not is_frozen(layer.name, frozen)), len(layers))


def _forward_and_backward(layers: Sequence[Layer], config: ConfigDict) -> int:
  first = _trained_from(layers, config)
  total = sum(layer.forward for layer in layers)
  for layer in layers[first:]:
    total += layer.forward + layer.scores
    total += 0 if is_frozen(layer.name, config.optimizer.frozen) else layer.dense
  return total


def _recomputed(layers: Sequence[Layer], config: ConfigDict) -> int:
  """Returns what gradient accumulation with cached features and rematerialisation repeat."""
  total = sum(layer.forward for layer in layers) if config.train.num_microbatches > 1 else 0
  if config.model.remat:
    total += sum(layer.recomputed for layer in layers[_trained_from(layers, config) :])
  return total
