"""Shared config variants: the paper's baselines and ablations, and options for small hardware.

A variant changes a config in place. Variants combine, separated by commas, and apply in order:
`--config=configs/post_pretrain.py:b16,mean`. Every recipe lists its variants in VARIANTS; docs/training.md describes
all of them.

In fine-tuning recipes, the TEMPORAL variants start from CLIP's weights, as in the paper.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from clipvip_jax.configs import sizes

Variant = Callable[[ConfigDict], None]


def apply_variants(
  config: ConfigDict,
  arg: str | None,
  available: Mapping[str, Variant],
  bases: Sequence[str] = (*sizes.SIZES, "demo"),
) -> ConfigDict:
  """Applies the comma-separated variants of `arg` in order and locks the config.

  Args:
    config: the recipe's, which is changed.
    arg: of `get_config`.
    available: variants of the recipe by name.
    bases: those that set many fields, which others then change.

  Raises:
    ValueError: a variant that is not in `available`, or one of `bases` after a variant some of whose fields it sets
      again: `mean,b16` would start from other weights than `b16,mean`.
  """
  names = [name for name in (arg or "").split(",") if name]
  for name in names:
    if name not in available:
      raise ValueError(f"unknown variant {name!r}; this recipe has: {', '.join(available)}")
  ordered = sorted(names, key=lambda name: name not in bases)
  expected = config.copy_and_resolve_references()
  for name, expected_name in zip(names, ordered, strict=True):
    available[name](config)
    available[expected_name](expected)
  if config != expected:
    raise ValueError(
      f"variants {','.join(names)}: one sets again what an earlier one changed; write {','.join(ordered)}"
    )
  return config.lock()


def single_frame(config: ConfigDict) -> None:
  """Uses one frame per clip, in training and evaluation."""
  config.data.num_frames = 1


def mean(config: ConfigDict) -> None:
  """Applies plain CLIP to every frame and averages the features (mean pooling)."""
  config.model.temporal = "mean"
  _plain_clip(config)


def sequence(config: ConfigDict) -> None:
  """Applies a sequence transformer to per-frame features."""
  config.model.temporal = "sequence"
  _plain_clip(config)


def full(config: ConfigDict) -> None:
  """Replaces proxy-guided attention by full space-time attention over the same tokens."""
  config.model.temporal = "full"


def proxies(added: int, config: ConfigDict) -> None:
  """Sets the number of proxies added to CLIP's class token."""
  config.model.vision.added_proxies = added


def no_time(config: ConfigDict) -> None:
  """Removes the time embedding."""
  config.model.vision.time_positions = 0


def loss(name: str, config: ConfigDict) -> None:
  """Selects a loss of clipvip_jax.training.losses.LOSSES."""
  config.loss = name


def subtitles_only(config: ConfigDict) -> None:
  """Trains on videos and subtitles, without captions."""
  config.loss = "vs"
  config.data.caption = ""


def captions_only(config: ConfigDict) -> None:
  """Trains on videos and captions of their middle frames, without subtitles."""
  config.loss = "vs"
  config.data.update({"subtitle": config.data.caption, "caption": ""})


def frozen_text(config: ConfigDict) -> None:
  """Freezes the text tower."""
  config.optimizer.frozen = ("text/",)


def frozen_lower(config: ConfigDict) -> None:
  """Freezes CLIP's embeddings and the lower half of both towers' blocks."""
  config.optimizer.frozen = lower_half(config.model)


def lower_half(model: ConfigDict) -> tuple[str, ...]:
  """Returns `config.optimizer.frozen` of `frozen_lower` for the sizes of a model."""
  names = [
    *(f"vision/{name}" for name in ("patch_embedding", "class_embedding", "position_embedding", "pre_norm")),
    *(f"text/{name}" for name in ("token_embedding", "position_embedding")),
  ]
  for tower in ("vision", "text"):
    names += [f"{tower}/transformer/block_{i}/" for i in range(model[tower].layers // 2)]
  return tuple(names)


def patch_dropout(config: ConfigDict) -> None:
  """Drops half of each frame's patches in training."""
  config.model.patch_dropout = 0.5


def remat(config: ConfigDict) -> None:
  """Enables gradient checkpointing: less memory, about a third more time."""
  config.model.remat = True


def _plain_clip(config: ConfigDict) -> None:
  config.model.vision.update({"added_proxies": 0, "time_positions": 0})


TEMPORAL: dict[str, Variant] = {
  "single_frame": single_frame,
  "mean": mean,
  "sequence": sequence,
  "full": full,
  **{f"proxies_{added}": functools.partial(proxies, added) for added in (0, 1, 3, 7)},
  "no_time": no_time,
}
_LOSSES = ("vs", "vs_fc", "vs_vc", "vs_vc_fc", "vsc", "vsc_fc", "joint_batch")
OMNISOURCE: dict[str, Variant] = {
  **{name: functools.partial(loss, name) for name in _LOSSES},
  "subtitles_only": subtitles_only,
  "captions_only": captions_only,
}
SMALL_HARDWARE: dict[str, Variant] = {
  "frozen_text": frozen_text,
  "frozen_lower": frozen_lower,
  "patch_dropout": patch_dropout,
  "remat": remat,
}
