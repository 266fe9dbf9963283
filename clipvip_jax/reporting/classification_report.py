"""Report of a video classification: a text table for a terminal, and an HTML page with confused classes."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from clipvip_jax.evaluation.retrieval import percent
from clipvip_jax.reporting import pages
from clipvip_jax.reporting.results_table import MISSING
from clipvip_jax.utils.log import printable

# Keys of results.json -> labels.
KINDS = {"zero_shot": "Zero-shot", "probe": "Linear probe"}
METRICS = {"top1": "Top-1", "top5": "Top-5", "mean_class_accuracy": "Mean class"}
_MAX_CONFUSIONS = 30  # of the page
_MAX_SKIPPED = 20  # videos that the page names
_NAME_WIDTH, _CELL_WIDTH = 14, 16  # characters


def format_metrics(metrics: Mapping[str, Any]) -> list[str]:
  """Formats the accuracies of one method in percent, a dash for what was not measured, and the interval of top-1."""
  low, high = metrics["top1_interval"]
  cells = [percent(metrics[name]) if name in metrics else MISSING for name in METRICS]
  return [*cells, f"{percent(low)} to {percent(high)}"]


def format_classification(results: Mapping[str, Any]) -> str:
  """Formats the results of `classification.classify` as a text table of several lines."""
  columns = [*METRICS.values(), "95% of top-1"]
  lines = [
    f"{count_videos(results)}; {len(results['classes']):,} classes",
    " " * _NAME_WIDTH + "".join(f"{column:>{_CELL_WIDTH}}" for column in columns),
  ]
  for kind, label in KINDS.items():
    if kind in results:
      cells = "".join(f"{cell:>{_CELL_WIDTH}}" for cell in format_metrics(results[kind]))
      lines.append(f"{label:<{_NAME_WIDTH}}{cells}")
  if absent := results["zero_shot"]["classes_without_videos"]:
    lines.append(f"classes without videos: {absent:,}; mean class accuracy is over the others")
  if confusions := results["zero_shot"]["confusions"][:3]:
    pairs = "; ".join(f"{row['label']} as {row['predicted']} ({row['videos']:,})" for row in confusions)
    lines.append(f"most confused: {printable(pairs)}")
  return "\n".join(lines)


def count_videos(results: Mapping[str, Any]) -> str:
  """Formats how many videos were classified: `98 of 100 videos, 2 skipped`."""
  return f"{results['zero_shot']['size']:,} of {results['videos']:,} videos, {len(results['skipped']):,} skipped"


def write_classification_page(path: pathlib.Path, results: Mapping[str, Any]) -> None:
  """Writes one self-contained page of the results of `classification.classify`.

  Raises:
    UserError: the page cannot be written.
  """
  methods = {kind: label for kind, label in KINDS.items() if kind in results}
  page = pages.render(
    "classification.html.jinja",
    source=printable(results["model"]["source"]),
    videos=count_videos(results),
    views=results["views"],
    num_frames=results["config"]["data"]["num_frames"],
    columns=[*METRICS.values(), "95% interval of top-1"],
    rows=[(label, format_metrics(results[kind])) for kind, label in methods.items()],
    confusions=[(label, _confusions(results[kind])) for kind, label in methods.items()],
    methods=[*methods.values()],
    classes=_class_rows(results, [*methods]),
    num_classes=len(results["classes"]),
    absent=results["zero_shot"]["classes_without_videos"],
    prompts=next(iter(results["classes"].items())),
    skipped=[{name: printable(text) for name, text in row.items()} for row in results["skipped"][:_MAX_SKIPPED]],
    num_skipped=len(results["skipped"]),
  )
  pages.write_page(path, page, "--workdir")


def _confusions(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
  """Returns (label, predicted class, videos, share of the videos of the label) of the most frequent pairs."""
  rows = metrics["confusions"][:_MAX_CONFUSIONS]
  return [(row["label"], row["predicted"], f"{row['videos']:,}", percent(row["share"])) for row in rows]


def _class_rows(results: Mapping[str, Any], kinds: Sequence[str]) -> list[tuple[str, int, list[str]]]:
  """Returns (name, videos, accuracies by method) of the classes that have videos, the least accurate first."""
  per_class = results["zero_shot"]["per_class"]
  names = sorted(per_class, key=lambda name: per_class[name]["top1"])
  return [
    (name, per_class[name]["videos"], [percent(results[kind]["per_class"][name]["top1"]) for kind in kinds])
    for name in names
  ]
