"""Published retrieval results, as far as they are comparable; recalls in percent, as printed in their sources.

Rows that name a model by its size alone are CLIP-ViP's: Xue et al., ICLR 2023 (arXiv 2209.06430), and the reference
implementation, on four test sets. For the others, which CLIP-ViP was not tested on:

- CLIP4Clip (Luo et al., 2021, arXiv 2104.08860) on MSVD; video-to-text as cited by VidLA (2024), table 13.
- CLIP2Video (Fang et al., 2021, arXiv 2106.11097), built on CLIP4Clip, on MSVD, MSR-VTT full and VATEX in HGR's split:
  from the README of its implementation.
- MIL-NCE (Miech et al., 2020), repeated with its published code, and HowTo100M (Miech et al., 2019) on YouCook2: from
  the dataset's leaderboard.

Video-to-text figures of sets with several captions are `video_to_text_grouped`: see docs/evaluation.md.
"""

import dataclasses
import re

from clipvip_jax.evaluation.retrieval import RECALLS

Row = tuple[str, str, str, str, tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class _TestSet:
  """Rows (setting, model, plain or dsl, direction, recalls) of one test set; `corpus` matches NAME/CONFIG."""

  title: str
  corpus: str
  split: str
  rows: tuple[Row, ...]


def _fine_tuned(model: str, plain: tuple[float, float, float], dsl: tuple[float, float, float]) -> tuple[Row, ...]:
  return (
    ("fine-tuned", model, "plain", "text_to_video", plain),
    ("fine-tuned", model, "dsl", "text_to_video", dsl),
  )


def _several_captions(
  model: str, text_to_video: tuple[float, float, float], video_to_text: tuple[float, float, float]
) -> tuple[Row, ...]:
  return (
    ("fine-tuned", model, "plain", "text_to_video", text_to_video),
    ("fine-tuned", model, "plain", "video_to_text_grouped", video_to_text),
  )


_TEST_SETS = (
  _TestSet(
    "MSR-VTT 1k-A, 1,000 clips",
    r"msrvtt/[79]k.*",
    "test",
    (
      ("zero-shot", "B/32", "plain", "text_to_video", (31.5, 53.9, 63.4)),
      ("zero-shot", "B/16", "plain", "text_to_video", (31.7, 53.8, 63.2)),
      *_fine_tuned("B/32", (50.1, 74.8, 84.6), (55.9, 77.0, 86.8)),
      ("fine-tuned", "B/32", "plain", "video_to_text", (49.1, 76.2, 84.0)),
      *_fine_tuned("B/16", (54.2, 77.2, 84.8), (57.7, 80.5, 88.2)),
    ),
  ),
  _TestSet(
    "DiDeMo, 1,004 clips",
    r"didemo/.*",
    "test",
    (
      *_fine_tuned("B/32", (48.6, 77.1, 84.4), (53.8, 79.6, 86.5)),
      *_fine_tuned("B/16", (50.5, 78.4, 87.1), (55.3, 82.0, 89.3)),
    ),
  ),
  _TestSet(
    "ActivityNet Captions val_1, 4,917 clips",
    r"activitynet_captions/.*",
    "validation",
    (
      *_fine_tuned("B/32", (51.1, 78.4, 88.3), (59.1, 83.9, 91.3)),
      *_fine_tuned("B/16", (53.4, 81.4, 90.0), (61.4, 85.7, 92.6)),
    ),
  ),
  _TestSet(
    "LSMDC, 1,000 clips",
    r"lsmdc/.*",
    "test",
    (
      *_fine_tuned("B/32", (25.6, 45.3, 54.4), (26.0, 46.4, 54.9)),
      *_fine_tuned("B/16", (29.4, 50.6, 59.0), (30.7, 51.4, 60.6)),
    ),
  ),
  _TestSet(
    "MSR-VTT full, 2,990 clips with 20 captions each",
    r"msrvtt/full.*",
    "test",
    _several_captions("CLIP2Video B/32", (29.8, 55.5, 66.2), (54.6, 82.1, 90.8)),
  ),
  _TestSet(
    "MSVD, all captions of 670 clips",
    r"msvd/.*",
    "test",
    (
      *_several_captions("CLIP4Clip B/32", (46.2, 76.1, 84.6), (62.0, 87.3, 92.6)),
      *_several_captions("CLIP2Video B/32", (47.0, 76.8, 85.9), (58.7, 85.6, 91.6)),
    ),
  ),
  _TestSet(
    "VATEX in HGR's split, 1,500 clips with ten captions each",
    r"vatex/.*",
    "test",
    _several_captions("CLIP2Video B/32", (61.2, 90.9, 95.6), (77.9, 98.1, 99.1)),
  ),
  _TestSet(
    "YouCook2, 3,350 clips",
    r"youcook2/default.*",
    "validation",
    (
      ("zero-shot", "MIL-NCE, repeated", "plain", "text_to_video", (13.9, 36.3, 48.9)),
      ("fine-tuned", "HowTo100M", "plain", "text_to_video", (8.2, 24.5, 35.3)),
    ),
  ),
)


def published_rows(corpus: str, split: str) -> list[dict[str, str | float]]:
  """Returns the published rows of a split of a corpus; empty if there are none.

  Args:
    corpus: `Corpus.name`, as in msrvtt/9k/1.0.0.
    split: its name.

  Returns:
    [{"test_set", "setting", "model", "kind": "plain" | "dsl", "direction", "R@1", "R@5", "R@10"}], recalls as fractions
    from 0 to 1.
  """
  name = "/".join(corpus.split("/")[:2])
  return [
    {"test_set": test_set.title, "setting": setting, "model": model, "kind": kind, "direction": direction}
    | {f"R@{k}": round(value / 100, 3) for k, value in zip(RECALLS, recalls, strict=True)}
    for test_set in _TEST_SETS
    if test_set.split == split and re.fullmatch(test_set.corpus, name)
    for setting, model, kind, direction, recalls in test_set.rows
  ]
