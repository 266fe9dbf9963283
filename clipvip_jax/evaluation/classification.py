"""Video classification: zero-shot by prompts, and by a linear probe. Embeds the videos and writes the workdir.

| file | content |
|---|---|
| evaluation.json | model, views and crop: a classification with others is refused |
| videos.safetensors, train.safetensors | features, as `clipvip_jax.embed` writes them; kept, and resumed |
| predictions.jsonl, predictions_probe.jsonl | one line per video: label, rank of the label, five likeliest classes |
| results.json | metrics, prompts, skipped videos |

Letters: N videos, C classes, E embedding size.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipvip_jax.evaluation import linear_probe
from clipvip_jax.evaluation.class_list import ClassList
from clipvip_jax.evaluation.classification_metrics import measure_classification
from clipvip_jax.evaluation.labelled_videos import LabelledVideo
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.inference.feature_file import SUFFIX
from clipvip_jax.inference.index_builder import IndexLayout, build_index
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.inference.video_views import ViewEmbedder, mean_direction
from clipvip_jax.runs import workdir
from clipvip_jax.utils import atomic_write, config_tree
from clipvip_jax.utils.log import log
from clipvip_jax.utils.versions import versions

_TASK = "classification"
_PROBE_PREDICTIONS = "predictions_probe.jsonl"
_NUM_PREDICTED = 5  # classes that a line of predictions names


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
  """Videos and classes of one classification, and its options.

  Attributes:
    classes: with their prompts.
    videos: the test videos.
    train: the training videos of the linear probe; None: zero-shot only.
    views: temporal views of each video, see `video_views`.
    threads: that decode videos; 0: one per core.
    max_skipped: the largest fraction of videos that may be unreadable.
    publish: see `index_builder.build_index`.
  """

  classes: ClassList
  videos: Sequence[LabelledVideo]
  train: Sequence[LabelledVideo] | None = None
  views: int = 1
  threads: int = 0
  max_skipped: float = 0.05
  publish: Callable[[pathlib.Path], None] = lambda path: None


@dataclasses.dataclass(frozen=True)
class _Embedded:
  """Features of the readable videos of a part, with their classes."""

  index: VideoIndex
  labels: Int[np.ndarray, " n"]


def classify(model: EmbeddingModel, task: ClassificationTask, folder: pathlib.Path) -> dict[str, Any]:
  """Classifies the videos and writes the workdir.

  Idempotent, and resumes where an earlier call was interrupted; classes and prompts may change between calls.

  Args:
    model: see `clipvip_jax.load`.
    task: see `ClassificationTask`.
    folder: the workdir.

  Returns:
    What results.json holds.

  Raises:
    UserError: the folder holds something else, too many videos are unreadable, or the probe cannot be fitted.
  """
  _claim(folder, model, task)
  prompts = class_features(model, task.classes.prompts)
  test = _embed(model, task, task.videos, folder / f"videos{SUFFIX}")
  scores = test.index.features @ prompts.T
  results = {
    "task": _TASK,
    "model": {"source": model.source, "identity": model.identity},
    "config": config_tree.to_json_dict(model.config),
    "views": task.views,
    "classes": dict(zip(task.classes.names, map(list, task.classes.prompts), strict=True)),
    "videos": len(task.videos),
    "skipped": _skipped(test.index),
    "zero_shot": measure_classification(scores, test.labels, task.classes.names),
    "versions": versions(),
  }
  if task.train is None:
    (folder / _PROBE_PREDICTIONS).unlink(missing_ok=True)  # of an earlier call, maybe with other classes
  else:
    results["probe"] = _probe(model, task, task.train, test, folder)
  _claim(folder, model, task)  # again: embedding creates a folder that was deleted meanwhile
  _write_predictions(folder / "predictions.jsonl", test, scores, task.classes)
  config_tree.write_json(folder / "results.json", results)
  return results


def class_features(model: EmbeddingModel, prompts: Sequence[Sequence[str]]) -> Float[np.ndarray, "c e"]:
  """Returns the feature of each class: the mean of the unit features of its prompts, of unit length again.

  Args:
    model: see `clipvip_jax.load`.
    prompts: of each class, at least one.
  """
  flat = [prompt for texts in prompts for prompt in texts]
  distinct = {text: row for row, text in enumerate(dict.fromkeys(flat))}
  features = model.embed_texts(list(distinct))
  return np.stack([mean_direction([features[distinct[text]] for text in texts]) for texts in prompts])


def _claim(folder: pathlib.Path, model: EmbeddingModel, task: ClassificationTask) -> None:
  """Records in evaluation.json what the kept features are of; refuses the folder of something else."""
  evaluation = {"task": _TASK, "model": model.identity, "crop": model.config.data.crop, "views": task.views}
  workdir.claim_evaluation(folder, evaluation, "classification")


def _embed(
  model: EmbeddingModel, task: ClassificationTask, videos: Sequence[LabelledVideo], path: pathlib.Path
) -> _Embedded:
  """Embeds the videos of a part, or reads the features that an earlier call kept."""
  embedder = ViewEmbedder(model, [video.clip for video in videos], task.views)
  index = build_index(
    embedder,
    embedder.names,
    path,
    threads=task.threads,
    max_skipped=task.max_skipped,
    flag="--workdir",
    layout=IndexLayout(paths=embedder.paths),
    publish=task.publish,
  )
  labels = {video.clip.name: video.label for video in videos}
  return _Embedded(index, np.array([labels[name] for name in index.videos], np.int64))


def _skipped(index: VideoIndex) -> list[dict[str, str]]:
  return [{"video": name, "reason": reason} for name, reason in zip(index.bad, index.reasons, strict=True)]


def _probe(
  model: EmbeddingModel,
  task: ClassificationTask,
  videos: Sequence[LabelledVideo],
  test: _Embedded,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Fits the linear probe, writes its predictions, and returns its results."""
  train = _embed(model, task, videos, folder / f"train{SUFFIX}")
  names = task.classes.names
  fit = linear_probe.fit_probe(train.index.features, train.labels, test.index.features, len(names))
  if fit.untrained:
    log.warning(
      "%d of %d classes have no training video, and are never predicted, first %s",
      *(len(fit.untrained), len(names), names[fit.untrained[0]]),
    )
  _write_predictions(folder / _PROBE_PREDICTIONS, test, fit.scores, task.classes)
  return {
    **measure_classification(fit.scores, test.labels, names),
    "C": fit.best_c,
    "validation_accuracy": {f"{exponent:g}": accuracy for exponent, accuracy in fit.sweep.items()},
    "train_videos": fit.num_train,
    "validation_videos": fit.num_validation,
    "train_skipped": _skipped(train.index),
    "untrained_classes": [names[index] for index in fit.untrained],
  }


def _write_predictions(
  path: pathlib.Path, videos: _Embedded, scores: Float[np.ndarray, "n c"], classes: ClassList
) -> None:
  """Writes one JSON line per video, atomically."""
  with atomic_write.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
    for name, label, row in zip(videos.index.videos, videos.labels.tolist(), scores, strict=True):
      best = np.argsort(-row, kind="stable")[:_NUM_PREDICTED]
      line = {
        "video": name,
        "label": classes.names[label],
        "rank": int(np.count_nonzero(row >= row[label])),
        "predicted": [{"class": classes.names[i], "score": float(row[i])} for i in best.tolist()],
      }
      file.write(json.dumps(line) + "\n")
