"""Turns weights of any source into files that others read.

  python -m clipvip_jax.convert SOURCE TARGET [--layout=clip_vip|clip|openclip]

TARGET is FILE.safetensors, or a folder that gets a configuration as well. Exit codes: 0 done; 2 bad input.
"""

import pathlib
from collections.abc import Sequence

from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.log import log


def main(argv: Sequence[str] | None = None) -> None:
  """Reads SOURCE, writes TARGET.

  Raises:
    UserError: a wrong command, a source that cannot be read, or a layout that cannot hold it.
  """
  parser = Parser(__doc__)
  parser.add_argument("source", metavar="SOURCE")
  parser.add_argument("target", metavar="TARGET", type=pathlib.Path)
  parser.add_argument("--layout", help="clip_vip, clip (HuggingFace's) or openclip; default: what SOURCE is")
  parser.add_argument("--activation", help="quick_gelu or gelu, where SOURCE does not say")
  parser.add_argument("--vision_heads", type=int, help="where SOURCE does not say and 64 a head is wrong")
  parser.add_argument("--text_heads", type=int, help="likewise")
  parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
  options = parser.parse_args(argv)
  from clipvip_jax.models.clip_vip import parameter_shapes  # late: --help answers at once
  from clipvip_jax.weights import export, load_params, sources
  from clipvip_jax.weights.model_config import Hints

  weights = sources.read_weights(options.source, Hints(options.activation, options.vision_heads, options.text_heads))
  load_params.check_complete(weights.params, parameter_shapes(weights.config), weights.source)
  layout = options.layout or ("clip" if weights.is_clip else "clip_vip")
  for path in export.export_weights(weights, options.target, layout, overwrite=options.overwrite):
    log.info("wrote %s (%s, %d parameters)", path, layout, sum(x.size for x in weights.params.values()))


if __name__ == "__main__":
  run_command(main)
