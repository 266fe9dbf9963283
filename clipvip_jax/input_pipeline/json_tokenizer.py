"""Tokenizers that a `tokenizer.json` of HuggingFace defines."""

import json
import os
import pathlib

from clipvip_jax.input_pipeline.clip_bpe import END, START
from clipvip_jax.input_pipeline.slow_patterns import find_slow_pattern
from clipvip_jax.input_pipeline.tokenizer import Tokenizer, digest_json, quote
from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable

_MAX_PATTERN = 60  # characters of a pattern in an error message


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
        f"{name} has the pattern {printable(pattern, _MAX_PATTERN)}, whose nested repetitions may take exponential"
        " time; use a tokenizer.json without"
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
    self.digest = digest_json(json.loads(content))

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
      raise UserError(f"tokenizer {path} {atomic_write.write_problem(error, 'choose another path')}") from error

  def _encode(self, text: str) -> list[int]:
    try:
      # One text at a time: encode_batch would start threads in every worker process.
      ids = self._json.encode(text, add_special_tokens=False).ids
    except BaseException as error:
      if type(error).__name__ != "PanicException":  # of Rust, which is no Exception
        raise
      raise UserError(
        f"the tokenizer.json cannot encode the text {quote(text)} ({printable(first_line(error), 200)}); use another"
      ) from error
    # The file's pre-tokenizer may keep a special token inside a text as one token.
    return [token for token in ids if token != self.start_id and token != self.end_id]


def _special_id(vocabulary: dict[str, int], token: str, name: str) -> int:
  if token not in vocabulary:
    raise UserError(f"{name} has no token {token}; use a CLIP tokenizer.json or one written by WordTokenizer.save")
  return vocabulary[token]
