"""Turns weights of any source into files that others read.

  python -m clipvip_jax.convert SOURCE TARGET [--layout=clip_vip|clip|openclip]

TARGET is FILE.safetensors, or a folder that gets a configuration as well. Exit codes: 0 done; 2 bad input.
"""

import pathlib

from absl import flags

from clipvip_jax.command import run
from clipvip_jax.errors import UserError
from clipvip_jax.log import log

_LAYOUT = flags.DEFINE_string(
  "layout",
  None,
  "clip_vip (CLIP-ViP's published names), clip (HuggingFace's) or openclip; default: what SOURCE is.",
)
_ACTIVATION = flags.DEFINE_string("activation", None, "quick_gelu or gelu, where SOURCE does not say.")
_VISION_HEADS = flags.DEFINE_integer("vision_heads", None, "Where SOURCE does not say and 64 a head is wrong.")
_TEXT_HEADS = flags.DEFINE_integer("text_heads", None, "Likewise.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that are there.")


def convert(argv: list[str]) -> None:
  """Reads SOURCE, writes TARGET.

  Raises:
    UserError: a wrong command, a source that cannot be read, or a layout that cannot hold it.
  """
  if len(argv) != 3:
    raise UserError("expected SOURCE and TARGET, as in: python -m clipvip_jax.convert build/demo demo.safetensors")
  from clipvip_jax.weights import sources, write
  from clipvip_jax.weights.sizes import Hints

  _, source, target = argv
  weights = sources.read(source, Hints(_ACTIVATION.value, _VISION_HEADS.value, _TEXT_HEADS.value))
  layout = _LAYOUT.value or ("clip" if weights.is_clip else "clip_vip")
  for path in write.write(weights, pathlib.Path(target), layout, overwrite=_OVERWRITE.value):
    log.info("wrote %s (%s, %d parameters)", path, layout, sum(x.size for x in weights.params.values()))


if __name__ == "__main__":
  run(convert)
