"""Published results: selected by corpus and split, as fractions."""

import pytest

from clipvip_jax.evaluation.published_results import published_rows


@pytest.mark.parametrize(
  ("corpus", "split", "count"),
  [
    ("msrvtt/9k/1.0.0", "test", 7),
    ("msrvtt/7k/1.0.0", "test", 7),
    ("didemo/default/1.0.0", "test", 4),
    ("activitynet_captions/default/1.0.0", "validation", 4),
    ("lsmdc/default/1.0.0", "test", 4),
    ("msrvtt/full/1.0.0", "test", 2),
    ("msvd/default/1.0.0", "test", 4),
    ("vatex/default-fps_6/1.0.0", "test", 2),
    ("youcook2/default/1.0.0", "validation", 2),
    ("youcook2/full/1.0.0", "validation", 0),
    ("msrvtt/9k/1.0.0", "train", 0),
    ("webvid/default/1.0.0", "validation", 0),
  ],
)
def test_rows_belong_to_corpus_configuration_and_split(corpus, split, count):
  assert len(published_rows(corpus, split)) == count


def test_figures_are_fractions_of_the_named_setting():
  rows = published_rows("msrvtt/9k/1.0.0", "test")
  recalls = {
    (row["setting"], row["model"], row["kind"], row["direction"]): [row[f"R@{k}"] for k in (1, 5, 10)] for row in rows
  }
  assert recalls["fine-tuned", "B/32", "plain", "text_to_video"] == [0.501, 0.748, 0.846]
  assert recalls["fine-tuned", "B/16", "dsl", "text_to_video"] == [0.577, 0.805, 0.882]
  assert recalls["fine-tuned", "B/32", "plain", "video_to_text"] == [0.491, 0.762, 0.84]
  assert recalls["zero-shot", "B/16", "plain", "text_to_video"] == [0.317, 0.538, 0.632]


def test_rows_of_other_methods_name_them_and_rank_groups_of_captions():
  rows = published_rows("msvd/default/1.0.0", "test")
  assert {(row["model"], row["direction"]): row["R@1"] for row in rows} == {
    ("CLIP4Clip B/32", "text_to_video"): 0.462,
    ("CLIP4Clip B/32", "video_to_text_grouped"): 0.62,
    ("CLIP2Video B/32", "text_to_video"): 0.47,
    ("CLIP2Video B/32", "video_to_text_grouped"): 0.587,
  }
