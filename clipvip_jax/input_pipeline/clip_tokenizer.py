"""Tokenizer with CLIP's own vocabulary."""

import functools
import itertools
import json
import os
import re
import unicodedata

import numpy as np

from clipvip_jax.input_pipeline.clip_bpe import ASCII_PATTERN, build_bpe
from clipvip_jax.input_pipeline.tokenizer import Tokenizer, digest_json
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.log import log, printable

_PROBE = " ".join(map(chr, range(33, 1000))) + " tokens of the vocabulary"  # text that determines the digest
_COMMON = ("a", "photo", "of", "two", "dogs", "playing", "in", "the", "snow")  # each a token of CLIP's vocabulary
_ASCII_WORD = re.compile(ASCII_PATTERN, re.ASCII)
_CACHED_WORDS, _CACHED_LENGTH = 1 << 15, 32  # words of at most so many characters: a few megabytes


class ClipTokenizer(Tokenizer):
  """CLIP's byte-pair vocabulary of 49,408 ids (Radford et al., 2021): start 49406, end 49407.

  Normalizes text to Unicode NFC and lower case, and ignores the amount of white space. Equal to HuggingFace's
  CLIPTokenizerFast, which CLIP-ViP is trained with, except that "<|endoftext|>" inside a text is tokenized as those
  characters and does not end the text. Capital sigma at the end of a word becomes small sigma there, not final sigma as
  in OpenAI's own tokenizer and the slow CLIPTokenizer of transformers before 5.0, which call str.lower.
  """

  def __init__(self) -> None:
    self._bpe = build_bpe()
    self._ids_of_word = functools.lru_cache(_CACHED_WORDS)(self._ids)
    self.start_id = self._bpe.get_vocab_size()
    self.end_id = self.start_id + 1
    self.vocab_size = self.end_id + 1
    self.digest = digest_json(self._ids(_PROBE))

  def __reduce__(self):
    return type(self), ()  # the package contains the vocabulary

  def _encode(self, text: str) -> list[int]:
    if not text.isascii():
      return self._ids(unicodedata.normalize("NFC", text))
    # Most texts: five times as fast, since words repeat.
    words = _ASCII_WORD.findall(text.lower())
    ids = (self._ids_of_word(word) if len(word) <= _CACHED_LENGTH else self._ids(word) for word in words)
    return list(itertools.chain.from_iterable(ids))

  def _ids(self, text: str) -> list[int]:
    # One text at a time: encode_batch would start threads in every worker process.
    return self._bpe.encode(text, add_special_tokens=False).ids


def has_clip_vocabulary(path: str | os.PathLike) -> bool:
  """Returns whether a tokenizer.json has the ids of CLIP's own vocabulary; assumed of a file that cannot be read.

  Compares common words: building the tokenizer would take as long as loading the weights.
  """
  clip = ClipTokenizer()
  try:
    vocabulary = json.loads(fetch_file(path).read_text(encoding="utf-8"))["model"]["vocab"]
    ids = [[clip.start_id, vocabulary[f"{word}</w>"], clip.end_id] for word in _COMMON]
  except (KeyError, TypeError):  # of another kind
    return False
  except (OSError, ValueError, RecursionError) as error:
    log.warning("%s is unreadable (%s); its vocabulary is assumed to be CLIP's", path, printable(error, 80))
    return True
  return np.array_equal(clip(_COMMON, 3), ids)
