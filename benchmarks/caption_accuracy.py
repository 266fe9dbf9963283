"""Accuracy of generated captions of moving_shapes, whose rendered captions are known to be right.

  python -m benchmarks.caption_accuracy CAPTIONS... --data_dir=DIR [--config=demo] [--split=train]

CAPTIONS are folders that `clipvip_jax.caption` wrote for the corpus. Prints a Markdown table in percent, over the clips
that have a rendered caption. A caption is right if size, colour, shape and position are. The background, which rendered
captions name at random, counts where both captions name one. A caption that was left out is wrong.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from clipvip_jax.configs import post_pretrain
from clipvip_jax.data.engine import text_lookup
from clipvip_jax.data.moving_shapes import scenes
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.record_text import record_text, record_texts
from clipvip_jax.utils.cli import Parser, run_command

ALL, ATTRIBUTES, BACKGROUND = "right", ("size", "colour", "shape", "position"), "background"
_CAPTION = re.compile(
  rf"an? (?P<size>{'|'.join(scenes.SIZES)}) (?P<colour>{'|'.join(scenes.COLOURS)}) (?P<shape>{'|'.join(scenes.SHAPES)})"
  rf" moves (?P<position>.+?)(?: on (?P<background>{'|'.join(scenes.BACKGROUNDS)}))?"
)


def attributes(caption: str) -> dict[str, str]:
  """Returns what a caption says of each attribute; {} for one that is not worded as those of the corpus."""
  match = _CAPTION.fullmatch(caption)
  return {name: value for name, value in match.groupdict().items() if value} if match else {}


def accuracy(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
  """Compares captions attribute by attribute.

  Args:
    pairs: rendered and generated caption of each frame; "": none was generated.

  Returns:
    Fractions of right captions: all attributes, each of them, and the background (NaN if no pair names it).
  """
  parsed = [(attributes(rendered), attributes(generated)) for rendered, generated in pairs]
  right = {name: [rendered[name] == generated.get(name) for rendered, generated in parsed] for name in ATTRIBUTES}
  both = [(a[BACKGROUND], b[BACKGROUND]) for a, b in parsed if BACKGROUND in a and BACKGROUND in b]
  columns = {
    ALL: list(map(all, zip(*right.values(), strict=True))), **right, BACKGROUND: [a == b for a, b in both]
  }  # fmt: skip
  return {name: sum(values) / len(values) if values else float("nan") for name, values in columns.items()}


def captioned(corpus: Corpus, split: str) -> dict[str, str]:
  """Returns {id: rendered caption} of the clips of a split that have one."""
  texts = ((record_text(record, "id"), record_texts(record, "caption")) for record in corpus.records(split))
  return {name: captions[0] for name, captions in texts if captions}


def table_row(name: str, values: Mapping[str, float]) -> str:
  """Returns a row of a Markdown table, in percent."""
  return f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values.values()) + " |"


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the table."""
  parser = Parser(__doc__)
  parser.add_argument("captions", metavar="CAPTIONS", nargs="+")
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--config", default="demo")
  parser.add_argument("--split", default="train")
  options = parser.parse_args(argv)
  section = post_pretrain.get_config("demo").data.copy_and_resolve_references()
  with section.unlocked():
    section.update({"data_dir": options.data_dir, "config": options.config, "prepare": False})
  rendered = captioned(open_corpus(section), options.split)
  print(f"{len(rendered)} captions of {options.split}\n")
  print("| captions | " + " | ".join((ALL, *ATTRIBUTES, BACKGROUND)) + " |\n" + 7 * "|---" + "|")
  for folder in options.captions:
    lookup = text_lookup.open_lookup(folder)
    generated = {name: text_lookup.find_text(lookup, name, options.split) or "" for name in rendered}
    print(table_row(folder, accuracy((rendered[name], generated[name]) for name in rendered)), flush=True)


if __name__ == "__main__":
  run_command(main)
