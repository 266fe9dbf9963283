"""Tokenizers for CLIP's text tower: layout of rows, and checks of texts.

Picklable and independent of JAX: they run in worker processes.
"""

import abc
import hashlib
import itertools
import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

_MAX_SHOWN = 60  # characters of a text in an error message


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
      raise UserError(f"expected a list of texts, got the single text {quote(texts)}; put it into a list")
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
      raise UserError(f"text {index} is {type(text).__name__}, not a string: {quote(text)}; remove or convert it")
    try:
      return self._encode(text)
    except (UnicodeEncodeError, TypeError) as error:
      raise invalid_unicode(text, index) from error


def digest_json(value: object) -> str:
  """Returns the digest of a JSON value, whatever the order of its keys and its white space."""
  return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def invalid_unicode(text: str, index: int) -> UserError:
  """Returns the error for a text with half of a surrogate pair, for which `tokenizers` raises a TypeError."""
  return UserError(f"text {index} is not valid Unicode: {quote(text)}; correct the annotations")


def quote(text: object) -> str:
  """Returns a text for an error message: printable, and not longer than a line."""
  return printable(repr(text), _MAX_SHOWN)
