"""CLIP's byte-pair encoding (Radford et al., 2021), from OpenAI's merges in `clip_merges/`."""

import gzip
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import tokenizers

_MERGES = pathlib.Path(__file__).parent / "clip_merges" / "merges.txt.gz"
_WORD_END = "</w>"
CLIP_VOCAB_SIZE = 49408
START, END = "<|startoftext|>", "<|endoftext|>"  # names of the special tokens, also in other vocabularies
# One word, number, or run of other characters; white space separates them.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# `_PATTERN` for ASCII in lower case, in the syntax of `re`.
ASCII_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"


def build_bpe() -> "tokenizers.Tokenizer":
  """Builds the encoding of texts in Unicode NFC, without special tokens: ids 0 to 49405.

  Bytes come first, as parts of a word and as its end, then one id per merge. Normalizer and pre-tokenizer are those of
  the tokenizer.json that is published with CLIP, without NFC and its collapse of white space, which changes no id.
  """
  from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

  lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
  merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
  characters = _byte_characters()
  names = [*characters, *(f"{character}{_WORD_END}" for character in characters), *map("".join, merges)]
  vocabulary = {name: index for index, name in enumerate(names)}
  bpe = Tokenizer(models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=_WORD_END))
  # Lower case of each letter by itself: str.lower makes a capital sigma at the end of a word final sigma.
  bpe.normalizer = normalizers.Lowercase()
  words = pre_tokenizers.Split(Regex(_PATTERN), "removed", invert=True)
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  )
  return bpe


def clip_tokenizer_json() -> str:
  """Returns CLIP's vocabulary as a tokenizer.json with its special tokens, for other programs."""
  from tokenizers import AddedToken, normalizers, processors

  bpe = build_bpe()
  start, end = bpe.get_vocab_size(), bpe.get_vocab_size() + 1
  bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (START, END)])
  bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
  bpe.post_processor = processors.RobertaProcessing((END, end), (START, start), trim_offsets=False)
  return bpe.to_str()


def _byte_characters() -> list[str]:
  """Returns the 256 characters that stand for bytes, in the order of their ids: printable bytes, then the others."""
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(256 - len(printable))]
