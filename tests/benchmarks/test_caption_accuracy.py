"""Accuracy of captions, against the scenes that were drawn."""

import json
import math

import pytest
import written_corpus

from benchmarks import caption_accuracy
from clipvip_jax.data.moving_shapes import scenes
from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder

RENDERED = "a large red circle moves near the top at the side on navy"


def test_rendered_captions_say_what_was_drawn():
  clips = [clip for clip in Builder.builder_configs["smoke"].plan().split("train") if clip.caption]
  for clip in clips:
    thing = clip.appearance.things[clip.story[-1].thing]
    said = caption_accuracy.attributes(clip.caption)
    assert (said["size"], said["colour"], said["shape"]) == (thing.size, thing.colour, thing.shape)
    assert said["position"] in clip.caption and " on " not in said["position"]
    assert said.get("background", "") in (*scenes.BACKGROUNDS, "")
  assert 0.3 < sum("background" in caption_accuracy.attributes(clip.caption) for clip in clips) / len(clips) < 0.7


@pytest.mark.parametrize(
  ("generated", "wrong"),
  [
    (RENDERED, ()),
    (RENDERED.removesuffix(" on navy"), ()),
    (RENDERED.replace("navy", "grey"), ("background",)),
    (RENDERED.replace("large", "small"), ("right", "size")),
    (RENDERED.replace("red circle", "blue ring"), ("right", "colour", "shape")),
    (RENDERED.replace(" at the side", ""), ("right", "position")),
    (RENDERED.replace(" at the side", " at the side at the side"), ("right", "position")),
    ("a red large circle moves", ("right", "size", "colour", "shape", "position")),
    ("", ("right", "size", "colour", "shape", "position")),
  ],
)
def test_one_caption_is_right_or_wrong_by_attribute(generated, wrong):
  measured = caption_accuracy.accuracy([(RENDERED, generated)])
  named = "background" in caption_accuracy.attributes(generated)
  expected = {name: float(name not in wrong) for name in measured if name != "background" or named}
  assert {name: value for name, value in measured.items() if not math.isnan(value)} == expected


def test_the_table_has_fractions_of_the_clips_with_a_rendered_caption(tmp_path, monkeypatch, capsys):
  others = [RENDERED, RENDERED.replace("red", "blue"), RENDERED.replace(" on navy", ""), "", RENDERED]
  records = [{"id": str(i), "frames": [b""], "caption": caption} for i, caption in enumerate([RENDERED] * 3 + [""] * 2)]
  version = str(Builder.VERSION)
  written_corpus.write(tmp_path, records, name="moving_shapes", config="mine", version=version)
  rows = [{"id": str(i), "split": "train", "caption": caption} for i, caption in enumerate(others)]
  (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  monkeypatch.setattr(
    "sys.argv", ["_", str(tmp_path / "captions.jsonl"), f"--data_dir={tmp_path}", "--config=mine"]
  )  # fmt: skip
  caption_accuracy.main()
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "3 captions of train" and lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == 8
  assert lines[4].endswith("| 66.7 | 100.0 | 66.7 | 100.0 | 100.0 | 100.0 |")
