"""Tokenizer with a vocabulary of words that is built from texts, for demos and tests."""

import collections
from collections.abc import Iterable

from clipvip_jax.input_pipeline.clip_bpe import END, START
from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer
from clipvip_jax.input_pipeline.tokenizer import invalid_unicode
from clipvip_jax.utils.errors import UserError

WORDS = "words"  # in place of a tokenizer's name: the WordTokenizer of a run, built from its training texts
PAD, UNKNOWN = "<|pad|>", "<|unknown|>"


class WordTokenizer(JsonTokenizer):
  """A small vocabulary of words: NFC, lower case, split at white space and punctuation.

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
        raise invalid_unicode(text, index) from error
    words = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - 4]
    # The package warns about ids without a name. The pre-tokenizer splits at "<|", so these never occur in a text.
    unused = [f"<|unused{index}|>" for index in range(2 + len(words), vocab_size - 2)]
    names = [PAD, UNKNOWN, *words, *unused, START, END]
    model = models.WordLevel({name: index for index, name in enumerate(names)}, unk_token=UNKNOWN)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return cls(tokenizer.to_str())
