"""Tokenizers: the reference's ids, the layout of rows, and unsuitable files."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from clipvip_jax.input_pipeline.tokenizer import (
  ClipTokenizer,
  JsonTokenizer,
  WordTokenizer,
  has_clip_vocabulary,
  load_tokenizer,
)
from clipvip_jax.utils.errors import UserError

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


@pytest.fixture(scope="module")
def tokenizers():
  return {
    "clip": ClipTokenizer(),
    "word": WordTokenizer.train(TEXTS, 64),
    "json": JsonTokenizer(bpe_json()),
  }


@pytest.fixture(params=["clip", "word", "json"])
def tokenizer(request, tokenizers):
  return tokenizers[request.param]


def test_clip_ids_equal_the_reference(golden):
  records = [record for record in golden("tokens.json") if "<|" not in record["text"]]
  assert len(records) == 109
  expected = np.zeros((len(records), 70), np.int32)
  for row, record in zip(expected, records, strict=True):
    row[: len(record["ids"])] = record["ids"]
  tokens = ClipTokenizer()([record["text"] for record in records], 70)
  wrong = [record["text"] for record, good in zip(records, (tokens == expected).all(axis=1), strict=True) if not good]
  assert not wrong and tokens.dtype == np.int32


def test_clip_ids():
  clip = ClipTokenizer()
  assert (clip.vocab_size, clip.start_id, clip.end_id) == (49408, 49406, 49407)
  np.testing.assert_array_equal(clip(["A  photo\nof a Cat"], 5), [[49406, 320, 1125, 539, 49407]])
  np.testing.assert_array_equal(*(clip([text], 9) for text in ("caf\u00e9", "CAFE\u0301")))


def test_clips_digest_is_that_of_earlier_versions():
  """Runs and indexes record it: another one refuses to resume them."""
  assert ClipTokenizer().digest == "6c5c82ba50f2c447f627ab74f1b0c67c"


def test_ascii_texts_are_split_like_all_others():
  """Only texts in ASCII are split by `re` and word by word; another character at the end makes a text general."""
  random, clip = np.random.default_rng(0), ClipTokenizer()
  frequent = list("'streve'lld 'S'T \t\n\v\f\r\x1c\x1f")
  texts = ["".join(random.choice(frequent + [chr(code) for code in range(128)], 60)) for _ in range(500)]
  texts += ["y" * 33 + "'s", "a" * 5000, *(chr(code) for code in range(128))]
  last = clip(["\u00e9"], 4)[0, 1:3]
  for text in texts:
    alone, general = clip([text, f"{text} \u00e9"], 6000)
    end = alone.argmax()
    assert general[: end + 2].tolist() == [*alone[:end], *last], repr(text)


# Ids of transformers 5.24's CLIPTokenizer, built from the merges that OpenAI publishes: 480 is final sigma, 481 sigma.
@pytest.mark.parametrize(
  ("text", "ids"),
  [
    ("\u039f\u0394\u039f\u03a3", [138, 123, 138, 112, 138, 123, 139, 481]),
    ("\u0391\u03a3 \u0392\u03a3", [138, 109, 139, 481, 138, 110, 139, 481]),
    ("A'\u03a3 \u039c\u0391\u03a3.", [320, 262, 139, 481, 138, 120, 138, 109, 139, 481, 269]),
    ("\u03a3", [139, 481]),
    ("\u03bf\u03b4\u03cc\u03c2", [138, 123, 138, 112, 139, 234, 139, 480]),
    ("\u039f\u0394\u039f\u03a3\u0301", [138, 123, 138, 112, 138, 123, 139, 481, 136, 479]),
  ],
)
def test_capital_sigma_at_the_end_of_a_word_is_as_in_the_reference(text, ids):
  assert ClipTokenizer()([text], len(ids) + 2)[0].tolist() == [49406, *ids, 49407]


@pytest.mark.parametrize(
  "word",
  [
    "\u0391\u03a3",
    "\u0392\u03a3\u0392\u03a3",
    "\u039b\u03cc\u03a3",
    "a\u03a3\u02bc",
    "\u03a3\u03c2\u03a3 \u039c\u03a3-",
  ],
)
def test_capital_sigma_is_lowered_as_by_the_package_of_the_fast_tokenizer(word):
  """OpenAI's own tokenizer calls str.lower, which gives other ids for these words."""
  from tokenizers import normalizers

  lowered = normalizers.Lowercase().normalize_str(word)
  clip = ClipTokenizer()
  np.testing.assert_array_equal(clip([word], 16), clip([lowered], 16))
  assert lowered != word.lower() and (clip([word], 16) != clip([word.lower()], 16)).any()


@pytest.mark.parametrize("length", [2, 3, 8, 70])
def test_every_row_is_start_text_end_zeros(tokenizer, length):
  """In particular, each row has the end id, its largest, exactly once: the text tower pools there."""
  tokens = tokenizer(TEXTS + AWKWARD, length)
  assert tokens.shape == (len(TEXTS + AWKWARD), length) and tokens.dtype == np.int32
  assert tokenizer.end_id == tokenizer.vocab_size - 1
  for row in tokens:
    end = row.argmax()
    assert row[0] == tokenizer.start_id and row[end] == tokenizer.end_id
    assert (row == tokenizer.start_id).sum() == 1 and (row == tokenizer.end_id).sum() == 1
    assert (row[end:] == tokenizer.end_id).sum() == 1 and not row[end + 1 :].any()
  assert (tokens[len(TEXTS), 1] == tokenizer.end_id) and tokens[-2, -1] == tokenizer.end_id


def test_truncation_keeps_the_first_tokens(tokenizer):
  full, truncated = tokenizer(TEXTS, 40), tokenizer(TEXTS, 5)
  np.testing.assert_array_equal(truncated[:, :4], full[:, :4])
  assert (truncated[:, 4] == tokenizer.end_id).all()


def test_special_tokens_inside_a_text_are_plain_text(tokenizer):
  start, spelled = tokenizer(["", "a <|endoftext|> b"], 40)
  assert start.argmax() == 1 and spelled.argmax() > 3
  assert spelled[spelled.argmax() - 1] == tokenizer(["b"], 3)[0, 1]  # the text after the special token is kept


def test_special_tokens_kept_by_the_pre_tokenizer_are_removed():
  content = word_json(32)
  content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
  tokenizer = JsonTokenizer(json.dumps(content))
  np.testing.assert_array_equal(*(tokenizer([text], 8) for text in ("a <|endoftext|> man <|startoftext|>", "a man")))


def test_no_texts_give_no_rows(tokenizer):
  assert tokenizer([], 8).shape == (0, 8)


def test_tokenizers_pickle(tokenizer):
  copy = pickle.loads(pickle.dumps(tokenizer))
  assert type(copy) is type(tokenizer)
  np.testing.assert_array_equal(copy(TEXTS + AWKWARD, 20), tokenizer(TEXTS + AWKWARD, 20))


def test_tokenizers_work_in_a_spawned_process(tokenizers):
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    for tokenizer in tokenizers.values():
      np.testing.assert_array_equal(pool.apply(tokenizer, (TEXTS, 12)), tokenizer(TEXTS, 12))


def test_tokenizers_work_in_threads_and_forked_processes():
  """Without the warning of the package that its own threads do not survive a fork."""
  program = """
import concurrent.futures, multiprocessing
from clipvip_jax.input_pipeline.tokenizer import ClipTokenizer, WordTokenizer
texts = [f"caf\u00e9 {i} dogs run" for i in range(200)]
for tokenizer in (ClipTokenizer(), WordTokenizer.train(texts, 64)):
  expected = tokenizer(texts, 12)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert all((tokens == expected).all() for tokens in pool.map(tokenizer, [texts] * 8, [12] * 8))
  with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all((tokens == expected).all() for tokens in pool.starmap(tokenizer, [(texts, 12)] * 4))
"""
  environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
  assert (result.returncode, result.stderr) == (0, "")


def test_invalid_input_is_rejected(tokenizer):
  with pytest.raises(UserError, match="cannot truncate texts to 1 tokens; use at least 2"):
    tokenizer(["a"], 1)
  with pytest.raises(UserError, match="got the single text 'a cat'; put it into a list"):
    tokenizer("a cat", 8)
  with pytest.raises(UserError, match="text 1 is NoneType, not a string: None; remove"):
    tokenizer(["a", None], 8)
  with pytest.raises(UserError, match=r"text 1 is not valid Unicode: 'b \\ud83d'; correct the annotations"):
    tokenizer(["a", "b \ud83d"], 8)


def test_words_are_ordered_by_count_then_alphabet():
  words = WordTokenizer.train(["b a, c", "C a  B", "d"], 20)
  assert (words.vocab_size, words.start_id, words.end_id) == (20, 18, 19)
  np.testing.assert_array_equal(words(["A b c , d other"], 8), [[18, 2, 3, 4, 5, 6, 1, 19]])


def test_the_end_id_depends_only_on_the_vocabulary_size():
  many = [" ".join(f"word{i}" for i in range(500))]
  for size in (4, 10, 100):
    for texts in ([], TEXTS, many):
      words = WordTokenizer.train(texts, size)
      assert (words.vocab_size, words.end_id) == (size, size - 1)
      assert words(many + TEXTS, 600).max() == size - 1
  with pytest.raises(UserError, match="of 3 ids is too small; use at least 4"):
    WordTokenizer.train(TEXTS, 3)
  with pytest.raises(UserError, match="text 1 is not valid Unicode"):
    WordTokenizer.train(["a", "\ud83d"], 9)


def test_training_is_deterministic_and_iterates_once():
  texts = [" ".join(np.random.default_rng(i).choice(["red", "blue", "dog", "man", "cat"], 7)) for i in range(40)]
  trained = [WordTokenizer.train(source, 16) for source in (texts, iter(texts), reversed(texts))]
  assert len({pickle.dumps(tokenizer) for tokenizer in trained}) == 1


def test_a_saved_tokenizer_loads_again(tmp_path, capfd):
  words, path = WordTokenizer.train(TEXTS, 64), tmp_path / "new" / "tokenizer.json"
  words.save(path)
  words.save(path)
  assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
  for source in (path, str(path)):
    loaded = load_tokenizer(source)
    assert (loaded.vocab_size, loaded.start_id, loaded.end_id) == (64, 62, 63)
    np.testing.assert_array_equal(loaded(TEXTS + AWKWARD, 20), words(TEXTS + AWKWARD, 20))
  assert capfd.readouterr().err == ""  # the package warns of vocabularies with holes


def test_a_failed_save_leaves_no_files(tmp_path):
  (tmp_path / "file").write_text("x")
  (tmp_path / "folder").mkdir()
  for path in (tmp_path / "file" / "tokenizer.json", tmp_path / "folder"):
    with pytest.raises(UserError, match=r"cannot write the tokenizer to .* \(.*\); choose a writable path"):
      WordTokenizer.train(TEXTS, 16).save(path)
  assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_loads_clip_by_name():
  assert isinstance(load_tokenizer("clip"), ClipTokenizer)


def test_loads_clips_tokenizer_json(tmp_path):
  """Ignores the file's truncation and padding to 5 tokens and its post-processor."""
  path = tmp_path / "tokenizer.json"
  path.write_text(bpe_json(), encoding="utf-8")
  loaded = load_tokenizer(path)
  content = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
  cat, s = content["cat</w>"], content["s</w>"]
  row = [loaded.start_id, cat, *[cat] * 5, s, loaded.end_id, 0]
  np.testing.assert_array_equal(loaded(["Cat  cat cat cat cat cat s"], 10), [row])


def unsuitable():
  words = word_json(32)
  no_end, not_last, no_unknown = (json.loads(json.dumps(words)) for _ in range(3))
  del no_end["model"]["vocab"]["<|endoftext|>"]
  not_last["model"]["vocab"]["more"] = 32
  del no_unknown["model"]["vocab"]["<|unknown|>"]
  return {
    "empty": (b"", "is not a valid tokenizer.json"),
    "no json": (b"model: 3", "is not a valid tokenizer.json"),
    "no tokenizer": (b'{"clip_id": "video7"}', "is not a valid tokenizer.json"),
    "binary": (b"\x89PNG\xff\xfe", "is not a tokenizer.json .*; use a JSON file in UTF-8"),
    "no end": (json.dumps(no_end).encode(), r"has no token <\|endoftext\|>"),
    "end not last": (json.dumps(not_last).encode(), "has id 31, but the largest id is 32"),
    "no unknown": (json.dumps(no_unknown).encode(), "is not a valid tokenizer.json"),
  }


@pytest.mark.parametrize("case", ["empty", "no json", "no tokenizer", "binary", "no end", "end not last", "no unknown"])
def test_an_unsuitable_file_is_rejected_by_name(tmp_path, case):
  content, message = unsuitable()[case]
  path = tmp_path / "chosen.json"
  path.write_bytes(content)
  with pytest.raises(UserError, match=rf"chosen\.json.*{message}"):
    load_tokenizer(path)


def test_a_missing_file_is_rejected_by_name(tmp_path):
  for name in ("clipp", tmp_path / "tokenizer.json", tmp_path):
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*; use 'clip' or the path of a tokenizer\.json"):
      load_tokenizer(name)


def with_pattern(pattern):
  """A tokenizer.json that splits texts by a regular expression."""
  from tokenizers import Regex, pre_tokenizers

  content = json.loads(bpe_json())
  split = pre_tokenizers.Split(Regex("x"), "isolated").__getstate__()
  content["pre_tokenizer"] = json.loads(split) | {"pattern": {"Regex": pattern}}
  return json.dumps(content)


def test_a_pattern_that_may_take_exponential_time_is_refused():
  with pytest.raises(UserError, match=r"t\.json has the pattern .*nested repetitions may take exponential time"):
    JsonTokenizer(with_pattern("(a+)+$"), "t.json")


def test_the_pattern_of_a_published_tokenizer_is_accepted():
  pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
  assert JsonTokenizer(with_pattern(pattern))(["a cat"], 8).shape == (1, 8)


def test_a_panic_of_the_package_is_an_error_that_names_the_text():
  # The regular expression engine gives up on this pattern, on which the package panics; that is no Exception.
  tokenizer = JsonTokenizer(with_pattern("(a{1,30}){1,30}$"))
  with pytest.raises(UserError, match=r"tokenizer\.json cannot encode the text 'aaa.*; use another"):
    tokenizer(["a" * 40 + "!"], 8)


def test_start_and_end_with_one_id_are_refused():
  last = json.loads(bpe_json())["model"]["vocab"]["<|endoftext|>"]
  content = json.loads(bpe_json())
  content["model"]["vocab"]["<|startoftext|>"] = last
  content["added_tokens"] = []
  with pytest.raises(UserError, match=r"<\|startoftext\|> and <\|endoftext\|> have the same id"):
    JsonTokenizer(json.dumps(content))


def test_the_digest_survives_a_round_trip_and_differs_for_other_ids(tmp_path):
  tokenizer = WordTokenizer.train(["a b c"], 10)
  tokenizer.save(tmp_path / "tokenizer.json")
  assert load_tokenizer(tmp_path / "tokenizer.json").digest == pickle.loads(pickle.dumps(tokenizer)).digest
  assert load_tokenizer(tmp_path / "tokenizer.json").digest == tokenizer.digest
  content = json.loads((tmp_path / "tokenizer.json").read_text())
  vocabulary = content["model"]["vocab"]
  vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
  (tmp_path / "permuted.json").write_text(json.dumps(content))
  digests = {load_tokenizer(tmp_path / "permuted.json").digest, WordTokenizer.train(["a b d"], 10).digest}
  assert len(digests | {tokenizer.digest, load_tokenizer("clip").digest}) == 4


def test_other_vocabulary_of_the_same_size_is_not_clips(tmp_path):
  WordTokenizer.train(["a photo of two dogs"], 49408).save(tmp_path / "words.json")
  assert not has_clip_vocabulary(tmp_path / "words.json")
  words = ("a", "photo", "of", "two", "dogs", "playing", "in", "the", "snow")
  vocabulary = {f"{word}</w>": int(ClipTokenizer()([word], 3)[0, 1]) for word in words}
  for vocab, expected in (
    (vocabulary, True),
    ({**vocabulary, "dogs</w>": 5}, False),
    ({}, False),
    ([["a", 0.5]], False),
  ):
    (tmp_path / "clip.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    assert has_clip_vocabulary(tmp_path / "clip.json") == expected
  (tmp_path / "clip.json").write_text("{")
  assert has_clip_vocabulary(tmp_path / "clip.json"), "no text can be tokenized with it"
