"""Texts for tests of tokenizers, and tokenizer.json files of small vocabularies."""

import json

from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer

TEXTS = ["A man plays the guitar", "a dog runs; a man laughs", "the café at night"]
AWKWARD = [
  "",
  " \n\t ",
  "<|endoftext|>",
  "a <|startoftext|> b <|endoftext|>",
  "<|unused9|> <|pad|> <|unknown|>",
  "日本語 😀 \x00 \u200b ½",
  "cafe\u0301",
  "word " * 500,
  "x" * 5000,
]


def bpe_json(**changes):
  """Returns a tokenizer.json with the structure of HuggingFace's CLIP file and a small vocabulary."""
  from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

  characters = pre_tokenizers.ByteLevel.alphabet()
  pieces = [*sorted(characters), *(f"{character}</w>" for character in sorted(characters)), "ca", "cat</w>"]
  vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
  vocabulary.update(changes)
  merges = [("c", "a"), ("ca", "t</w>")]
  tokenizer = Tokenizer(
    models.BPE(vocabulary, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix="")
  )
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
  )
  words = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  )
  start, end = (vocabulary[token] for token in ("<|startoftext|>", "<|endoftext|>"))
  tokenizer.post_processor = processors.RobertaProcessing(("<|endoftext|>", end), ("<|startoftext|>", start))
  tokenizer.add_special_tokens([AddedToken("<|startoftext|>", special=True), AddedToken("<|endoftext|>", special=True)])
  tokenizer.enable_truncation(5)
  tokenizer.enable_padding(length=5, pad_id=3)
  return tokenizer.to_str()


def word_json(vocab_size):
  """Returns the parsed tokenizer.json of a word tokenizer."""
  _, (content,) = WordTokenizer.train(TEXTS, vocab_size).__reduce__()
  return json.loads(content)
