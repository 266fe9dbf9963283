"""Clips along sentences."""

import random

import pytest

from clipvip_jax.transcription.sentences import MAX_PAUSE, Clip, cut_sentences, split_sentences
from clipvip_jax.transcription.words import Word, spread_words


def words(*texts, start=0.0, seconds=2.0, pause=0.5):
  """Returns the words of texts, each of which takes `seconds`, with pauses between them."""
  found = []
  for text in texts:
    found += spread_words(text, start, start + seconds)
    start += seconds + pause
  return found


@pytest.mark.parametrize(
  ("text", "sentences"),
  [
    ("One. Two! Three? Four", 4),
    ('He said "no." She left…', 2),
    ("Mr. Smith of J. Doe and Co met Dr. No at 3.14 p", 1),
    ("The U.S. is big. Yes", 2),
    ("これは本。 それは猫。", 2),
    ("no punctuation at all", 1),
  ],
)
def test_splits_sentences(text, sentences):
  assert len(split_sentences(spread_words(text, 0, 5))) == sentences


def test_a_long_pause_ends_a_sentence():
  found = split_sentences([*words("and so"), *words("it goes", start=2.0 + MAX_PAUSE)])
  assert [[word.text for word in sentence] for sentence in found] == [["and", "so"], ["it", "goes"]]


def test_spans_are_those_of_the_sentences():
  cut = cut_sentences(words("One two three.", "Four, five.", "Six seven?"), 2.0, 10.0)
  assert cut.clips == [Clip(0, 2, "One two three."), Clip(2.5, 4.5, "Four, five."), Clip(5, 7, "Six seven?")]
  assert (cut.too_short, cut.too_long) == (0, 0)


def test_short_sentences_are_joined_and_the_last_one_with_those_before_it():
  spoken = words("One.", "Two.", "Three.", seconds=1.0)
  assert cut_sentences(spoken, 2.0, 10.0).clips == [Clip(0, 4, "One. Two. Three.")]
  assert cut_sentences(spoken, 2.0, 3.0).clips == [Clip(0, 2.5, "One. Two.")]
  assert cut_sentences(spoken, 2.0, 3.0).too_short == 1
  far = [*words("One.", seconds=1.0), *words("Two.", seconds=3.0, start=60.0)]
  cut = cut_sentences(far, 2.0, 100.0)
  assert cut.clips == [Clip(60, 63, "Two.")] and cut.too_short == 1


def test_long_sentences_are_cut_at_a_clause_or_a_pause_near_the_middle():
  spoken = words("one two three four, five six seven eight", seconds=8.0)
  assert [clip.subtitle for clip in cut_sentences(spoken, 1.0, 5.0).clips] == [
    "one two three four,", "five six seven eight"
  ]  # fmt: skip
  paused = [*words("one two three", seconds=3.0), *words("four five six seven", start=4.5, seconds=4.0)]
  assert [clip.subtitle for clip in cut_sentences(paused, 1.0, 5.0).clips] == ["one two three", "four five six seven"]
  cut = cut_sentences([Word(0, 60, "Hm."), *words("Right so.", start=60.5)], 1.0, 5.0)
  assert cut.too_long == 1 and [clip.subtitle for clip in cut.clips] == ["Right so."]


def test_every_word_is_in_one_clip_or_counted_and_limits_hold():
  rng = random.Random(0)
  for _ in range(50):
    spoken, start = [], 0.0
    for number in range(200):
      end = start + rng.uniform(0.1, 0.8)
      spoken.append(Word(start, end, f"w{number}" + rng.choice(["", "", "", ".", ","])))
      start = end + rng.choice([0.0, 0.1, 0.5, 3.0])
    cut = cut_sentences(spoken, 3.0, 9.0)
    texts = " ".join(clip.subtitle for clip in cut.clips).split()
    assert texts == [word.text for word in spoken if word.text in texts] and len(texts) == len(set(texts))
    assert all(3.0 <= round(clip.end - clip.start, 3) <= 9.0 for clip in cut.clips)
    assert (len(texts) == len(spoken)) == (cut.too_short + cut.too_long == 0)
    by_text = {word.text: word for word in spoken}
    for clip in cut.clips:
      inside = [by_text[text] for text in clip.subtitle.split()]
      assert (clip.start, clip.end) == (round(inside[0].start, 3), round(inside[-1].end, 3))


def test_no_words_are_no_clips():
  assert cut_sentences([], 1, 2).clips == []
