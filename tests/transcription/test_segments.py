"""Segments of recognised speech: which are kept, and their times."""

from clipvip_jax.transcription.segments import Segment, to_speech
from clipvip_jax.transcription.words import Word


def test_imagined_segments_are_left_out_and_counted():
  segments = [
    Segment(0, 1, "kept"),
    Segment(1, 2, "Thanks for watching", no_speech=0.9, log_probability=-1.5),
    Segment(2, 3, "quiet but sure", no_speech=0.9, log_probability=-0.2),
    Segment(3, 4, "la la la la", compression=3.0),
  ]
  speech = to_speech(segments, 4.0)
  assert " ".join(word.text for word in speech.words) == "kept quiet but sure" and speech.imagined == 2


def test_times_are_within_the_sound_and_in_order():
  segments = [Segment(3.0, 5.0, "late"), Segment(-1.0, 1.0, "early", (Word(-1.0, 1.0, "early"),))]
  assert to_speech(segments, 4.0).words == (Word(0.0, 1.0, "early"), Word(3.0, 4.0, "late"))
