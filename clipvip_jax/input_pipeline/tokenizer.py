"""Tokenizers for CLIP's text tower: CLIP's own vocabulary, or a `tokenizer.json`.

Picklable and independent of JAX: they run in worker processes.
"""

import abc
import collections
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

from clipvip_jax.input_pipeline.clip_bpe import ASCII_PATTERN, END, START, build_bpe
from clipvip_jax.input_pipeline.slow_patterns import find_slow_pattern
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log, printable

PAD, UNKNOWN = "<|pad|>", "<|unknown|>"  # names of the first two ids of a WordTokenizer

WORDS = "words"  # in place of a name: the WordTokenizer of a run, built from its training texts

_PROBE = " ".join(map(chr, range(33, 1000))) + " tokens of the vocabulary"  # text that determines CLIP's digest
_COMMON = ("a", "photo", "of", "two", "dogs", "playing", "in", "the", "snow")  # each a token of CLIP's vocabulary
_MAX_SHOWN = 60  # characters of a text in an error message
_ASCII_WORD = re.compile(ASCII_PATTERN, re.ASCII)
_CACHED_WORDS, _CACHED_LENGTH = 1 << 15, 32  # words of at most so many characters: a few megabytes


class Tokenizer(abc.ABC):
  """Converts texts to ids for CLIP's text tower.

  A row is start, the tokens of the text, end, then zeros. The tower pools at the first position of the row's largest
  id, so `end_id` is the largest id of the vocabulary and never part of the text itself. Attention is causal, so the
  zeros after it do not affect the features.

  Attributes:
    vocab_size: number of ids.
    start_id: id before a text.
    end_id: id after a text, `vocab_size - 1`.
    digest: of what determines the ids of texts, in hexadecimal digits.
  """

  vocab_size: int
  start_id: int
  end_id: int
  digest: str

  @abc.abstractmethod
  def _encode(self, text: str) -> list[int]:
    """Returns the ids of `text` without start and end."""

  def __call__(self, texts: Sequence[str], length: int) -> Int32[np.ndarray, "n l"]:
    """Tokenizes texts; truncates long ones before the end token.

    Args:
      texts: N strings; an empty one becomes start and end.
      length: L, tokens per row, at least 2.

    Raises:
      UserError: `length` is below 2, `texts` is a single string, or an entry is not a string or not valid Unicode.
    """
    if length < 2:
      raise UserError(f"cannot truncate texts to {length} tokens; use at least 2, for start and end")
    if isinstance(texts, str):
      raise UserError(f"expected a list of texts, got the single text {_quote(texts)}; put it into a list")
    ids = [self._encode_checked(text, index)[: length - 2] for index, text in enumerate(texts)]
    ends = np.fromiter(map(len, ids), np.int64, len(ids)) + 1
    column = np.arange(length)
    tokens = np.zeros((len(ids), length), np.int32)
    tokens[(column > 0) & (column < ends[:, None])] = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
    tokens[:, 0] = self.start_id
    tokens[np.arange(len(ids)), ends] = self.end_id
    return tokens

  def _encode_checked(self, text: str, index: int) -> list[int]:
    if not isinstance(text, str):
      raise UserError(f"text {index} is {type(text).__name__}, not a string: {_quote(text)}; remove or convert it")
    try:
      return self._encode(text)
    except (UnicodeEncodeError, TypeError) as error:
      raise _invalid_unicode(text, index) from error


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
    self.digest = _digest(self._ids(_PROBE))

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


class JsonTokenizer(Tokenizer):
  """A HuggingFace `tokenizer.json` with the tokens "<|startoftext|>" and, as its last id, "<|endoftext|>".

  Uses only its normalizer, pre-tokenizer and vocabulary: this class adds start and end, truncates and pads. Special
  tokens inside a text are plain text.

  Args:
    content: the JSON text.
    name: of the file, for error messages.

  Raises:
    UserError: `content` is not a tokenizer, or its last id is not the end token.
  """

  def __init__(self, content: str, name: str = "the tokenizer JSON") -> None:
    import tokenizers

    if pattern := find_slow_pattern(content):
      raise UserError(
        f"{name} has the pattern {printable(pattern, _MAX_SHOWN)}, whose nested repetitions may take exponential time;"
        " use a tokenizer.json without"
      )
    try:
      self._json = tokenizers.Tokenizer.from_str(content)
      self._json.encode("\u2603 a-z", add_special_tokens=False)  # a vocabulary may lack its own unknown token
    except Exception as error:  # the package raises nothing narrower
      raise UserError(
        f"{name} is not a valid tokenizer.json ({printable(first_line(error))}); use one of HuggingFace tokenizers"
      ) from error
    self._json.no_truncation()
    self._json.no_padding()
    self._json.encode_special_tokens = True  # as plain characters
    vocabulary = self._json.get_vocab(with_added_tokens=True)
    self.start_id, self.end_id = (_special_id(vocabulary, token, name) for token in (START, END))
    if self.start_id == self.end_id:
      raise UserError(f"{name}: {START} and {END} have the same id {self.end_id}; use a CLIP tokenizer.json")
    self.vocab_size = max(vocabulary.values()) + 1
    if self.end_id != self.vocab_size - 1:
      raise UserError(
        f"{name}: {END} has id {self.end_id}, but the largest id is {self.vocab_size - 1}; the text tower pools at the"
        " largest id, so use a tokenizer whose end token has it, as CLIP's tokenizer.json"
      )
    self.digest = _digest(json.loads(content))

  def __reduce__(self):
    return type(self), (self._json.to_str(),)

  def save(self, path: str | os.PathLike) -> None:
    """Writes a file for `load_tokenizer` atomically; creates missing folders.

    Raises:
      UserError: `path` cannot be written.
    """
    path = pathlib.Path(path)
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write.atomic_path(path) as partial:
        partial.write_text(self._json.to_str(pretty=True), encoding="utf-8")
    except OSError as error:
      raise UserError(f"cannot write the tokenizer to {path} ({error.strerror}); choose a writable path") from error

  def _encode(self, text: str) -> list[int]:
    try:
      # One text at a time: encode_batch would start threads in every worker process.
      ids = self._json.encode(text, add_special_tokens=False).ids
    except BaseException as error:
      if type(error).__name__ != "PanicException":  # of Rust, which is no Exception
        raise
      raise UserError(
        f"the tokenizer.json cannot encode the text {_quote(text)} ({printable(first_line(error), 200)}); use another"
      ) from error
    # The file's pre-tokenizer may keep a special token inside a text as one token.
    return [token for token in ids if token != self.start_id and token != self.end_id]


class WordTokenizer(JsonTokenizer):
  """A small vocabulary of words, for demos and tests: NFC, lower case, split at white space and punctuation.

  Ids: 0 padding, 1 unknown words, then words, `vocab_size - 2` start, `vocab_size - 1` end.
  """

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int) -> "WordTokenizer":
    """Builds a vocabulary of the most frequent words, ties in alphabetical order: deterministic.

    Args:
      texts: any number of texts, iterated once.
      vocab_size: number of ids, at least 4. If the texts have fewer words, the ids between the last word and start
        remain unused, so that the end id depends only on `vocab_size`.

    Raises:
      UserError: `vocab_size` is below 4, or a text is not valid Unicode.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if vocab_size < 4:
      raise UserError(f"a vocabulary of {vocab_size} ids is too small; use at least 4 (padding, unknown, start, end)")
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pre_tokenizer = pre_tokenizers.Whitespace()
    counts: collections.Counter[str] = collections.Counter()
    for index, text in enumerate(texts):
      try:
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
      except (UnicodeEncodeError, TypeError) as error:
        raise _invalid_unicode(text, index) from error
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - 4]
    # The package warns about ids without a name. The pre-tokenizer splits at "<|", so these never occur in a text.
    unused = [f"<|unused{index}|>" for index in range(2 + len(words), vocab_size - 2)]
    names = [PAD, UNKNOWN, *words, *unused, START, END]
    model = models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return cls(tokenizer.to_str())


def load_tokenizer(name_or_path: str | os.PathLike) -> Tokenizer:
  """Loads a tokenizer.

  Args:
    name_or_path: "clip" for CLIP's own vocabulary, or the path of a `tokenizer.json`, written by `WordTokenizer.save`
      or published with a CLIP model on HuggingFace.

  Raises:
    UserError: the file does not exist, is unreadable, or is not a tokenizer for CLIP's text tower.
  """
  if name_or_path == "clip":
    return ClipTokenizer()
  try:
    content = pathlib.Path(name_or_path).expanduser().read_text(encoding="utf-8")
  except OSError as error:
    raise UserError(
      f"cannot read the tokenizer {os.fspath(name_or_path)!r} ({error.strerror}); use 'clip' or the path of a"
      " tokenizer.json"
    ) from error
  except UnicodeDecodeError as error:
    raise UserError(f"{name_or_path} is not a tokenizer.json ({error}); use a JSON file in UTF-8") from error
  return JsonTokenizer(content, os.fspath(name_or_path))


def has_clip_vocabulary(path: str | os.PathLike) -> bool:
  """Returns whether a tokenizer.json has the ids of CLIP's own vocabulary; assumed of a file that cannot be read.

  Compares common words: building the tokenizer would take as long as loading the weights.
  """
  clip = ClipTokenizer()
  try:
    vocabulary = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["model"]["vocab"]
    ids = [[clip.start_id, vocabulary[f"{word}</w>"], clip.end_id] for word in _COMMON]
  except (KeyError, TypeError):  # of another kind
    return False
  except (OSError, ValueError, RecursionError) as error:
    log.warning("%s is unreadable (%s); its vocabulary is assumed to be CLIP's", path, printable(error, 80))
    return True
  return np.array_equal(clip(_COMMON, 3), ids)


def _digest(value: object) -> str:
  """Returns the digest of a JSON value, whatever the order of its keys and its white space."""
  return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _special_id(vocabulary: dict[str, int], token: str, name: str) -> int:
  if token not in vocabulary:
    raise UserError(f"{name} has no token {token}; use a CLIP tokenizer.json or one written by WordTokenizer.save")
  return vocabulary[token]


def _invalid_unicode(text: str, index: int) -> UserError:
  # Half of a surrogate pair, from a broken JSON escape; `tokenizers` raises a TypeError for it.
  return UserError(f"text {index} is not valid Unicode: {_quote(text)}; correct the annotations")


def _quote(text: object) -> str:
  return printable(repr(text), _MAX_SHOWN)
