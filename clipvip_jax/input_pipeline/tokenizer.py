"""Texts to token ids behind one interface: CLIP's own vocabulary, or any `tokenizer.json`.

NumPy only: tokenisers run in loader processes and are pickled into them.
"""

import abc
import collections
import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from clipvip_jax.utils import atomic_write
from clipvip_jax.utils.errors import UserError

# The names under which a tokenizer.json holds CLIP's two special tokens, and ours the first two ids.
START, END = "<|startoftext|>", "<|endoftext|>"
PAD, UNKNOWN = "<|pad|>", "<|unknown|>"


class Tokenizer(abc.ABC):
  """Turns texts into ids for CLIP's text tower.

  A row is start, the tokens of the text, end, then zeros. The tower pools at the first position of the row's
  largest id, so `end_id` is the largest id there is and never comes from the text itself; what follows it is
  never seen, because attention is causal.

  Attributes:
    vocab_size: number of ids; every id is below it.
    start_id: the id before a text.
    end_id: the id after a text, `vocab_size - 1`.
  """

  vocab_size: int
  start_id: int
  end_id: int

  @abc.abstractmethod
  def _encode(self, text: str) -> list[int]:
    """The ids of `text` alone, without start and end."""

  def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
    """Ids of each text; a long text is cut so that the end token stays.

    Args:
      texts: N strings; an empty one gives start and end.
      length: L, the positions of a row, at least 2.

    Returns:
      int32 [N, L].

    Raises:
      UserError: `length` below 2, one string in place of several, or an entry that is no valid text.
    """
    if length < 2:
      raise UserError(f"cannot cut texts to {length} tokens; start and end alone need 2")
    if isinstance(texts, str):
      raise UserError(f"expected a list of texts, got the one text {_shown(texts)}; put it into a list")
    kept = [self._checked(text, index)[: length - 2] for index, text in enumerate(texts)]
    ends = np.fromiter(map(len, kept), np.int64, len(kept)) + 1
    column = np.arange(length)
    tokens = np.zeros((len(kept), length), np.int32)
    tokens[(column > 0) & (column < ends[:, None])] = np.fromiter(itertools.chain.from_iterable(kept), np.int32)
    tokens[:, 0] = self.start_id
    tokens[np.arange(len(kept)), ends] = self.end_id
    return tokens

  def _checked(self, text: str, index: int) -> list[int]:
    if not isinstance(text, str):
      raise UserError(f"text {index} is {type(text).__name__}, not a string: {_shown(text)}")
    try:
      return self._encode(text)
    except (UnicodeEncodeError, TypeError) as error:
      raise _not_unicode(text, index) from error


class ClipTokenizer(Tokenizer):
  """CLIP's byte-pair vocabulary of 49,408 ids (Radford et al., 2021): start 49406, end 49407.

  Text is put into Unicode's composed form (NFC), lower-cased, and its white space collapsed. "<|endoftext|>"
  written in a text is read as those characters; HuggingFace's tokeniser would end the text there.

  Raises:
    UserError: the package with the vocabulary is not installed.
  """

  def __init__(self) -> None:
    try:
      import instant_clip_tokenizer
    except ImportError as error:
      raise UserError(
        "tokenizer 'clip' needs the package instant-clip-tokenizer (Python 3.10 to 3.12 on x86-64): install "
        "it, or give the path of the tokenizer.json that is published with CLIP's weights"
      ) from error
    self._clip = instant_clip_tokenizer.Tokenizer()
    self.start_id, self.end_id = self._clip.start_of_text(), self._clip.end_of_text()
    self.vocab_size = self.end_id + 1

  def __reduce__(self):
    return type(self), ()  # the compiled object does not pickle; its vocabulary is inside the package

  def _encode(self, text: str) -> list[int]:
    return self._clip.encode(unicodedata.normalize("NFC", text))


class JsonTokenizer(Tokenizer):
  """A HuggingFace `tokenizer.json` that holds "<|startoftext|>" and, as its last id, "<|endoftext|>".

  Only its normaliser, splitter and vocabulary are used: start, end, cutting and padding are this class's, and
  a special token spelled in a text is plain text.

  Args:
    content: the JSON itself.
    source: where it is from, for messages.

  Raises:
    UserError: `content` is no tokeniser, or not one whose last id is the end token.
  """

  def __init__(self, content: str, source: str = "the given JSON") -> None:
    import tokenizers

    try:
      self._json = tokenizers.Tokenizer.from_str(content)
      self._json.encode("\u2603 a-z", add_special_tokens=False)  # a vocabulary may lack its own unknown token
    except Exception as error:  # the package raises nothing narrower
      raise UserError(f"{source} is no usable tokenizer.json of HuggingFace tokenizers: {error}") from error
    self._json.no_truncation()
    self._json.no_padding()
    self._json.encode_special_tokens = True  # that is: as the characters they are spelled with
    vocabulary = self._json.get_vocab(with_added_tokens=True)
    self.start_id, self.end_id = (_special_id(vocabulary, token, source) for token in (START, END))
    self.vocab_size = max(vocabulary.values()) + 1
    if self.end_id != self.vocab_size - 1:
      raise UserError(
        f"{source}: {END} has id {self.end_id} but ids go up to {self.vocab_size - 1}; the text tower pools "
        "at the largest id, so the end token must have it, as in CLIP's tokenizer.json"
      )

  def __reduce__(self):
    return type(self), (self._json.to_str(),)

  def save(self, path: str | os.PathLike) -> None:
    """Writes the tokeniser to `path` for `load_tokenizer`, whole or not at all; makes missing folders.

    Raises:
      UserError: `path` cannot be written.
    """
    path = pathlib.Path(path)
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write.atomic_path(path) as partial:
        partial.write_text(self._json.to_str(pretty=True), encoding="utf-8")
    except OSError as error:
      raise UserError(f"cannot write the tokenizer to {path}: {error.strerror}; give a file that can be") from error

  def _encode(self, text: str) -> list[int]:
    # One text at a time: encode_batch would start threads in every loader process.
    ids = self._json.encode(text, add_special_tokens=False).ids
    # A splitter of the file's own may leave the spelling of a special token in one piece.
    return [token for token in ids if token != self.start_id and token != self.end_id]


class WordTokenizer(JsonTokenizer):
  """A small vocabulary of whole words, for demonstrations and tests: lower-case, NFC, split at punctuation.

  Ids: 0 padding, 1 any unknown word, then words, `vocab_size - 2` start, `vocab_size - 1` end.
  """

  @classmethod
  def train(cls, texts: Iterable[str], vocab_size: int) -> "WordTokenizer":
    """The most frequent words of `texts`, ties in alphabetical order: the same texts give the same ids.

    Args:
      texts: any number of texts, read once.
      vocab_size: number of ids, at least 4. Where the texts have fewer words the ids between the last word
        and start stay unused, so that a config's vocabulary size alone fixes the end id.

    Raises:
      UserError: `vocab_size` below 4, or an entry that is no valid text.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if vocab_size < 4:
      raise UserError(f"a vocabulary of {vocab_size} ids is too small; padding, unknown, start and end need 4")
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Whitespace()
    counts: collections.Counter[str] = collections.Counter()
    for index, text in enumerate(texts):
      try:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
      except (UnicodeEncodeError, TypeError) as error:
        raise _not_unicode(text, index) from error
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - 4]
    # Named, as the package warns of ids without a name; the splitter cuts at "<|", so no text spells them.
    unused = [f"<|unused{index}|>" for index in range(2 + len(words), vocab_size - 2)]
    names = [PAD, UNKNOWN, *words, *unused, START, END]
    model = models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return cls(tokenizer.to_str())


def load_tokenizer(name_or_path: str | os.PathLike) -> Tokenizer:
  """The tokeniser a config names.

  Args:
    name_or_path: "clip" for CLIP's own vocabulary, or the path of a `tokenizer.json`: one written by
      `WordTokenizer.save`, or HuggingFace's for a CLIP model.

  Raises:
    UserError: there is no such file, it cannot be read, or it is no tokeniser for CLIP's text tower.
  """
  if name_or_path == "clip":
    return ClipTokenizer()
  try:
    content = pathlib.Path(name_or_path).read_text(encoding="utf-8")
  except OSError as error:
    raise UserError(
      f"no tokenizer {os.fspath(name_or_path)!r} ({error.strerror}); give 'clip' or the path of a tokenizer.json"
    ) from error
  except UnicodeDecodeError as error:
    raise UserError(f"{name_or_path} is not text, so no tokenizer.json: {error}") from error
  return JsonTokenizer(content, source=os.fspath(name_or_path))


def _special_id(vocabulary: dict[str, int], token: str, source: str) -> int:
  if token not in vocabulary:
    raise UserError(f"{source} has no token {token}; use a CLIP tokenizer.json or one written by WordTokenizer.save")
  return vocabulary[token]


def _not_unicode(text: str, index: int) -> UserError:
  # Half of a surrogate pair, as a broken JSON escape leaves it; `tokenizers` calls that a TypeError.
  return UserError(f"text {index} is no valid Unicode: {_shown(text)}; mend it in the annotations")


def _shown(text: object) -> str:
  """`text` as a message can show it: escaped and short."""
  shown = ascii(text)
  return shown if len(shown) <= 60 else shown[:57] + "..."
