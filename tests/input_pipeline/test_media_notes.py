"""Notes on media files."""

from clipvip_jax.input_pipeline.media_notes import add_note, collect_notes


def test_notes_are_collected_once_and_in_the_innermost_context():
  add_note("outside")
  with collect_notes() as outer:
    add_note("hdr")
    add_note("hdr")
    with collect_notes() as inner:
      add_note("interlaced")
    add_note("cut")
  assert outer == {"hdr", "cut"} and inner == {"interlaced"}
