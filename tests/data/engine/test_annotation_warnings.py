"""Warnings about valid annotations."""

import pytest

from clipvip_jax.data.engine.annotation_warnings import AnnotationWarnings
from clipvip_jax.data.engine.items import Item


@pytest.mark.parametrize("spelling", ["a.mp4", "./a.mp4", "sub/../a.mp4", "{folder}/a.mp4"])
def test_a_video_of_train_and_test_is_reported(tmp_path, monkeypatch, caplog, spelling):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "sub").mkdir()
  warnings = AnnotationWarnings()
  for number, (split, video) in enumerate(
    [("train", f"{tmp_path}/a.mp4"), ("test", spelling.format(folder=tmp_path)), ("test", "b.mp4"), ("val", "c.mp4")]
  ):
    warnings.add(Item(str(number), split, video, ("x",)))
  warnings.log()
  assert "1 of 2 videos of split 'test' are also in split 'train'" in (logged := caplog.text)
  assert "'val'" not in logged


def test_clips_that_are_repeated_in_a_split_are_reported(caplog):
  warnings = AnnotationWarnings()
  rows = [("a.jpg", None), ("./a.jpg", None), ("b.jpg", None), ("a.jpg", 1.0), ("x/../b.jpg", None)]
  for number, (video, start) in enumerate(rows):
    warnings.add(Item(str(number), "train", video, ("x",), start=start))
  warnings.log()
  assert "2 of 5 clips of split 'train' have the video and the times of another one" in caplog.text


def test_texts_of_empty_cells_are_reported(caplog):
  warnings = AnnotationWarnings()
  for number, texts in enumerate([("nan", "a cat"), ("None",), ("none of them",), ("NaN",)]):
    warnings.add(Item(str(number), "train", f"{number}.mp4", texts))
  warnings.log()
  assert "3 texts are 'NaN' or 'None' or 'nan', first that of clip '0' of split 'train'" in caplog.text


def test_ordinary_annotations_are_not_reported(caplog):
  warnings = AnnotationWarnings()
  for split in ("train", "test"):
    warnings.add(Item("a", split, f"{split}/a.mp4", ("banana",)))
  warnings.log()
  assert not caplog.text
