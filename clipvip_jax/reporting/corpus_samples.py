"""Page with sample clips of a corpus, as training reads them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipvip_jax.input_pipeline.corpus import Corpus
from clipvip_jax.input_pipeline.frame_sampling import jittered_frames, middle_frame
from clipvip_jax.input_pipeline.record_text import Record, record_text, record_texts
from clipvip_jax.reporting import pages
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable

_TEXT_FIELDS = ("subtitle", "description")
_MAX_CHARACTERS = 600  # of a text
_EPOCH = 0  # of training


def write_samples(path: pathlib.Path, corpus: Corpus, split: str, *, count: int, num_frames: int, seed: int) -> None:
  """Writes a self-contained page with the frames that training samples in the first epoch, and the texts.

  Args:
    path: the page.
    corpus: an open corpus.
    split: name of a split.
    count: number of clips, evenly spread over the split.
    num_frames: frames per clip.
    seed: seed of the training run.

  Raises:
    UserError: the corpus has no such split, a record cannot be read, or the page cannot be written.
  """
  records = corpus.records(split)
  indices = np.unique(np.linspace(0, len(records) - 1, count).astype(int)).tolist() if len(records) else []
  page = pages.render(
    "samples.html.jinja",
    corpus=corpus.name,
    split=split,
    pixels=corpus.metadata.get("pixels", "Preprocessing of pixels unknown"),
    coverage=_format_counts(corpus.metadata.get("coverage", {}).get(split, {})),
    captioners=_format_captioners(corpus.metadata.get("captions", [])),
    epoch=_EPOCH,
    samples=[_sample(_read_record(corpus, records, index), index, num_frames, seed) for index in indices],
  )
  pages.write_page(path, page, "--html")


def _format_counts(counts: dict[str, int]) -> str:
  """Formats the counts that are not zero, expected and found clips first."""
  ordered = sorted(counts.items(), key=lambda item: item[0] not in ("expected", "found"))
  return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in ordered if value)


def _format_captioners(headers: Sequence[Mapping[str, Any]]) -> str:
  """Formats the models of generated captions, of which a corpus may have several."""
  return ", ".join(dict.fromkeys(printable(header.get("model") or header.get("engine", "?")) for header in headers))


def _read_record(corpus: Corpus, records: Sequence[Record], index: int) -> Record:
  try:
    return records[index]
  except (RuntimeError, ValueError) as error:  # a missing or truncated file
    raise UserError(
      f"{corpus.name}: record {index} cannot be read ({first_line(error)}); build the corpus again"
    ) from error


def _sample(record: Record, index: int, num_frames: int, seed: int) -> dict[str, Any]:
  import simplejpeg

  frames = record["frames"]
  sampled = jittered_frames(len(frames), num_frames, np.random.default_rng((seed, _EPOCH, index)))
  height, width = simplejpeg.decode_jpeg_header(frames[0])[:2]
  return {
    "id": printable(record_text(record, "id")),
    "frames": [pages.jpeg_uri(frames[i]) for i in sampled],
    "middle": pages.jpeg_uri(frames[middle_frame(len(frames))]),
    "caption": " ".join(text for _, text in _text_rows(record, "caption")),
    "frame_indices": ", ".join(str(i) for i in sampled),
    "num_frames": len(frames),
    "size": f"{width} x {height}",
    "texts": [row for field in _TEXT_FIELDS for row in _text_rows(record, field)],
  }


def _text_rows(record: Record, field: str) -> list[tuple[str, str]]:
  """Returns (label, text with its number of words) of each text of a field."""
  values = record_texts(record, field)
  if not values:
    return [(field, "(none)")]
  labels = [field] if len(values) == 1 else [f"{field} {number}" for number in range(1, len(values) + 1)]
  return [
    (label, f"{_truncate(value)} (words: {len(value.split())})") for label, value in zip(labels, values, strict=True)
  ]


def _truncate(value: str) -> str:
  return value if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]}…"
