"""Trains a small captioner on still frames, for `clipvip_jax.caption --engine=transformers --model=FOLDER`.

  python -m benchmarks.captioner NAME --config=CONFIG --data_dir=DIR --out=FOLDER [--steps=1200] [--seed=0]

A GIT of 0.4 M parameters learns the captions of the middle frames of a corpus' train split, from random weights. It
sees no other frames and texts, so that it cannot learn motion. Prints its accuracy on the validation split. Needs the
extra `caption`. A complete FOLDER is kept if it has the same settings.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from benchmarks.caption_accuracy import accuracy, attributes
from clipvip_jax.captioning.transformers_engine import INSTALL, TransformersEngine
from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import middle_frame
from clipvip_jax.input_pipeline.image_files import decode_image
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.input_pipeline.record_text import record_texts
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.cli import Parser, run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log

TRAINING_FILE = "training.json"  # written last
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
_PAD, _START, _END = 0, 2, 3
_IMAGE_SIZE, _PATCH_SIZE, _BATCH_SIZE = 64, 16, 64
_TOWER = {
  "hidden_size": 96,
  "intermediate_size": 192,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "initializer_range": 0.1,  # 0.02, the default, is of wide towers: captions as good take 2.5 times as many steps
}
_MAX_TOKENS = 128  # more than `clipvip_jax.caption` generates, also where the end is not learnt yet
_LEARNING_RATE = 2e-3


def load_stills(corpus: Corpus, split: str) -> tuple[list[bytes], list[str]]:
  """Returns middle frames as JPEG, and their captions, of the clips that have one."""
  frames, captions = [], []
  for record in corpus.records(split):
    if texts := record_texts(record, "caption"):
      frames.append(record["frames"][middle_frame(len(record["frames"]))])
      captions.append(texts[0])
  return frames, captions


def make_processor(captions: Sequence[str]) -> Any:
  """Returns a processor whose vocabulary is the words of the captions."""
  import transformers

  words = sorted({word for caption in captions for word in caption.split()})
  with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    file.write("\n".join((*_SPECIAL_TOKENS, *words)))
    file.flush()
    tokenizer = transformers.BertTokenizer(file.name, model_input_names=["input_ids", "attention_mask"])
  size = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
  images = transformers.CLIPImageProcessor(size={"shortest_edge": _IMAGE_SIZE}, crop_size=size)
  return transformers.GitProcessor(images, tokenizer)


def make_model(vocab_size: int) -> Any:
  """Returns a GIT with random parameters, from torch's global generator."""
  import transformers

  config = transformers.GitConfig(
    vision_config={**_TOWER, "image_size": _IMAGE_SIZE, "patch_size": _PATCH_SIZE},
    **_TOWER,
    vocab_size=vocab_size,
    max_position_embeddings=_MAX_TOKENS,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    bos_token_id=_START,
    eos_token_id=_END,
    pad_token_id=_PAD,
  )
  return transformers.GitForCausalLM(config)


def train(frames: Sequence[bytes], captions: Sequence[str], steps: int, seed: int, out: pathlib.Path) -> None:
  """Trains a captioner and writes it to a folder. On one machine, the result depends on the arguments alone.

  Args:
    frames: as JPEG.
    captions: of the frames.
    steps: of 64 frames each, with a learning rate that rises to 2e-3 and falls to zero.
    seed: of the parameters and of the order of the frames.
    out: the folder.
  """
  import torch

  torch.manual_seed(seed)
  order = torch.Generator().manual_seed(seed)
  processor = make_processor(captions)
  model = make_model(len(processor.tokenizer)).train()
  log.info("%d frames, %d parameters", len(frames), sum(parameter.numel() for parameter in model.parameters()))
  pixels = processor.image_processor([decode_image(frame) for frame in frames], return_tensors="pt")["pixel_values"]
  tokens = processor.tokenizer(list(captions), padding=True, return_tensors="pt")
  ids, mask = tokens["input_ids"], tokens["attention_mask"]
  optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
  schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.1)
  for step in range(1, steps + 1):
    batch = torch.randint(len(frames), (_BATCH_SIZE,), generator=order)
    labels = ids[batch].masked_fill(mask[batch] == 0, -100)  # -100: not part of the loss
    loss = model(pixel_values=pixels[batch], input_ids=ids[batch], attention_mask=mask[batch], labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    if step % 100 == 0 or step == steps:
      log.info("step %d of %d: loss %.3f", step, steps, loss.item())
  model.save_pretrained(out)
  processor.save_pretrained(out)


def generate(model: pathlib.Path, frames: Sequence[bytes]) -> list[str]:
  """Returns the captions of frames, as `clipvip_jax.caption` generates them."""
  engine = TransformersEngine(str(model), None, {"max_new_tokens": 100, "do_sample": False}, _BATCH_SIZE)
  answers = {}
  engine.run(iter(enumerate(frames)), answers.__setitem__)
  return [answers[number].text for number in range(len(frames))]


def main(argv: Sequence[str] | None = None) -> None:
  """Trains, measures and prints."""
  parser = Parser(__doc__)
  parser.add_argument("corpus", metavar="NAME", help="a built corpus of moving_shapes")
  parser.add_argument("--config", default="", help="its configuration; default: its first")
  parser.add_argument("--data_dir", required=True, help="dataset directory")
  parser.add_argument("--out", required=True, type=pathlib.Path, metavar="FOLDER", help="folder of the captioner")
  parser.add_argument("--steps", type=int, default=1200, help="default: 1200")
  parser.add_argument("--seed", type=int, default=0, help="default: 0")
  options = parser.parse_args(argv)
  _check_options(options)
  section = ConfigDict({"name": options.corpus, "config": options.config, "data_dir": options.data_dir})
  corpus = open_corpus(section, "")
  settings = {"corpus": corpus.identity(), "steps": options.steps, "seed": options.seed}
  settings = json.loads(json.dumps(settings))
  path = options.out / TRAINING_FILE
  if not path.exists():
    stills, (frames, captions) = load_stills(corpus, "train"), load_stills(corpus, "validation")
    if not stills[1] or not captions or not all(map(attributes, captions)):
      raise UserError(
        f"{options.corpus}: train and validation need captions as those of moving_shapes; name that corpus"
      )
    train(*stills, options.steps, options.seed, options.out)
    measured = accuracy(zip(captions, generate(options.out, frames), strict=True))
    config_tree.write_json(path, {"settings": settings, "validation": measured})
  written = json.loads(path.read_text(encoding="utf-8"))
  if written["settings"] != settings:
    raise UserError(f"{options.out} holds a captioner of other settings ({TRAINING_FILE}); choose another --out")
  print(", ".join(f"{name} {100 * value:.1f}%" for name, value in written["validation"].items()))


def _check_options(options: argparse.Namespace) -> None:
  if options.steps < 20:
    raise UserError(f"--steps={options.steps} is out of range; use at least 20")
  try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
  except ImportError as error:
    raise UserError(f"benchmarks.captioner needs {error.name}, which is not installed: {INSTALL}") from error


if __name__ == "__main__":
  run_command(main)
