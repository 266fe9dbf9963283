"""What is removed from answers, what is left out, and where captions are cut."""

import pytest

from clipvip_jax.captioning.cleaning import clean_answer, fits_in
from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer

FITS = fits_in(ClipTokenizer(), 20)


def cleaned(answer, fits=lambda text: True, **options):
  result = clean_answer(answer, fits, **options)
  return result.caption, result.left_out, list(result.changes)


@pytest.mark.parametrize(
  "answer",
  [
    "a man rides a wave",
    'A sign says "Stop".',
    '"Stop", says the sign, and "Go"',
    "Images of saints hang on a wall.",
    "very, very, very tall trees",
    "Two dogs, 3 cats & a half-eaten sandwich (on a plate).",
    "Ein Mann fährt Fahrrad. 男人骑自行车。",
    "There is a dog in this picture frame.",
  ],
)
def test_captions_are_kept(answer):
  assert cleaned(answer) == (answer, "", [])


@pytest.mark.parametrize(
  ("answer", "caption", "changes"),
  [
    ("The image shows a dog.", "a dog.", ["prefix"]),
    ("In this photo, we can see a dog.", "a dog.", ["prefix"]),
    ("This is a picture of a dog.", "a dog.", ["prefix"]),
    ("Sure! Here is a caption: The image depicts a dog.", "a dog.", ["prefix"]),
    ("Caption: a dog", "a dog", ["prefix"]),
    ('"A dog runs."', "A dog runs.", ["quotes"]),
    ('"The picture shows a dog."', "a dog.", ["quotes"]),
    ("“A dog runs.”", "A dog runs.", ["quotes"]),
    ("**A dog** runs.", "A dog runs.", ["markup"]),
    ("```\na dog\n```", "a dog", ["markup"]),
    ("<think>What is it?\nA dog.</think>\n\na dog", "a dog", ["reasoning"]),
    ("What is it?\nA dog.</think>\n\na dog", "a dog", ["reasoning"]),  # the first tag is in the prompt
    ("a cat? " * 1000 + "</thinking>a dog", "a dog", ["reasoning"]),
    ("◁think▷" + "a cat? " * 1000 + "◁/think▷a dog", "a dog", ["reasoning"]),
    ("  a\n\ndog\x00 \u0007runs ", "a dog runs", []),
    ('Caption: "The image shows **a dog**."', "a dog.", ["markup", "prefix", "quotes"]),
  ],
)
def test_what_is_not_the_description_is_removed(answer, caption, changes):
  assert cleaned(answer) == (caption, "", changes)


@pytest.mark.parametrize(
  ("answer", "reason"),
  [
    ("", "empty"),
    ("  \n", "empty"),
    ("...", "empty"),
    ('""', "empty"),
    ("<think>I wonder", "empty"),
    ("I'm sorry, but I can't help with that.", "refusal"),
    ("I’m sorry, I can’t.", "refusal"),  # noqa: RUF001
    ("Sorry, no.", "refusal"),
    ("Please upload the image.", "refusal"),
    ("Please provide an image, and I will describe it.", "refusal"),
    ("As an AI model, I do not see.", "refusal"),
    ("I cannot describe people.", "refusal"),
    ("Unfortunately, I have no access.", "refusal"),
    ("a dog a dog a dog a dog a dog a do", "endless_repeats"),
    ("A cat. " * 30, "endless_repeats"),
    ("a man walks and walks and walks and walks and walks", "endless_repeats"),
    ("no " * 9, "endless_repeats"),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "endless_repeats"),
    ("a sign: 哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈哈", "endless_repeats"),
  ],
)
def test_what_is_no_description_is_left_out(answer, reason):
  caption, left_out, _ = cleaned(answer)
  assert (caption, left_out) == ("", reason)


@pytest.mark.parametrize(
  ("answer", "caption"),
  [
    (
      "A dog runs on the beach. " + "It is a sunny day with many people and boats in the background.",
      "A dog runs on the beach.",
    ),
    (
      "A dog runs on the beach, " + "while many people in colourful clothes watch it from afar and laugh",
      "A dog runs on the beach",
    ),
    ("many " * 3 + "red green blue cyan grey pink gold teal plum lime navy rust " * 2, None),
  ],
)
def test_long_captions_are_cut_where_the_text_tower_ends(answer, caption):
  result = clean_answer(answer, FITS)
  assert result.changes[-1] == "cut"
  assert FITS(result.caption) and answer.startswith(result.caption)
  if caption is None:  # neither sentence nor clause fits: the most words that do
    words = answer.split()
    assert result.caption.split() == max((words[:n] for n in range(20) if FITS(" ".join(words[:n]))), key=len)
  else:
    assert result.caption == caption


def test_the_sentence_that_the_model_did_not_finish_is_cut():
  assert cleaned("A dog runs. It is a very bi", incomplete=True) == ("A dog runs.", "", ["cut"])
  assert cleaned("A dog that is very", incomplete=True)[0] == "A dog that is very"


def test_a_text_fits_with_its_start_and_end():
  assert FITS("dog " * 18) and not FITS("dog " * 19)


def test_hostile_answers_are_cleaned_in_time():
  for answer in (
    "a b " * 10**5,
    "(" * 10**6,
    "<think>" * 10**5,
    "</think" * 10**5,
    '"' * 10**6,
    "x" * 10**6,
    " \u2028" * 10**5,
  ):
    clean_answer(answer, FITS)
