"""Converts weights of any SOURCE to a layout that other projects read.

  python -m clipvip_jax.convert SOURCE TARGET [--layout=clip_vip|clip|openclip]

SOURCE is a weight file, a folder, hf://OWNER/NAME or a workdir. TARGET is FILE.safetensors, FILE.pt (PyTorch's format;
the e2e_weights_path of CLIP-ViP's code), or a folder, to which configuration and tokenizer are also written. Exit
codes: 0 success; 2 bad input.
"""

import pathlib
from collections.abc import Sequence

from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.log import log


def main(argv: Sequence[str] | None = None) -> None:
  """Reads SOURCE and writes TARGET.

  Raises:
    UserError: an invalid option, a source that cannot be read, or a layout that does not support it or, without
      --lossy, cannot express how a run embeds.
  """
  parser = Parser(__doc__)
  parser.add_argument("source", metavar="SOURCE")
  parser.add_argument("target", metavar="TARGET", type=pathlib.Path)
  parser.add_argument(
    "--layout", help="clip_vip, clip (HuggingFace's) or openclip; default: clip, if it expresses SOURCE, else clip_vip"
  )
  parser.add_argument("--activation", help="quick_gelu or gelu; default: from the files of SOURCE")
  parser.add_argument("--vision_heads", type=int, help="default: from the files of SOURCE, else one per 64 channels")
  parser.add_argument("--text_heads", type=int, help="likewise")
  parser.add_argument("--overwrite", action="store_true", help="replace existing files")
  parser.add_argument(
    "--lossy", action="store_true", help="allow a layout from which other programs cannot compute a run's features"
  )
  options = parser.parse_args(argv)
  from clipvip_jax.models.clip_vip import parameter_shapes  # lazy, so that --help is fast
  from clipvip_jax.weights import export, load_params, sources
  from clipvip_jax.weights.model_config import Hints

  weights = sources.read_weights(options.source, Hints(options.activation, options.vision_heads, options.text_heads))
  load_params.check_complete(weights.params, parameter_shapes(weights.config), weights.source)
  layout = options.layout or export.default_layout(weights)
  if not options.lossy:
    export.check_lossless(weights, layout)
  num_parameters = sum(x.size for x in weights.params.values())
  for path in export.export_weights(weights, options.target, layout, overwrite=options.overwrite):
    log.info("wrote %s (layout %s, %d parameters)", path, layout, num_parameters)


if __name__ == "__main__":
  run_command(main)
