"""Model card of a repository on the HuggingFace Hub: metadata with a model index, results, training and use.

Equal input gives a byte-identical card. It holds no paths of a machine: of a path in a configuration, it shows the last
part. Names from corpora and configurations are shown as code, in which Markdown and HTML have no meaning.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from clipvip_jax.evaluation.retrieval import percent
from clipvip_jax.reporting import pages
from clipvip_jax.reporting.results_table import (
  DIRECTIONS,
  GROUPED,
  KINDS,
  METRICS,
  format_coverage,
  format_metrics,
)
from clipvip_jax.runs.metrics_history import is_number, lookup
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable
from clipvip_jax.weights.export import losses
from clipvip_jax.weights.source_paths import HUB
from clipvip_jax.weights.sources import Weights

if TYPE_CHECKING:
  from huggingface_hub import EvalResult

LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
# Layout -> library and task by which the Hub files a model.
_LIBRARIES = {
  "clip_vip": ("clipvip_jax", "feature-extraction"),
  "clip": ("transformers", "zero-shot-image-classification"),
  "openclip": ("open_clip", "zero-shot-image-classification"),
}
_TASKS = {"text_to_video": "Text-to-video retrieval", "video_to_text": "Video-to-text retrieval"}
_OF_A_MACHINE = re.compile(r"host\..*|(.*\.)?data_dir|data\.(prepare|cache_dir|cache_gb)")  # fields of a configuration
_LIMIT = 200  # characters of a name


@dataclasses.dataclass(frozen=True)
class CardFields:
  """Fields that no file of a run states.

  Attributes:
    repository: OWNER/NAME.
    source: hf://OWNER/NAME or hf://OWNER/NAME@BRANCH.
    license: identifier of the Hub.
    license_name: of another license.
    license_link: its address.

  Raises:
    UserError: the license is missing, or the Hub does not allow it.
  """

  repository: str
  source: str
  license: str | None
  license_name: str | None = None
  license_link: str | None = None

  def __post_init__(self) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{1,60}", self.license or ""):
      problem = f"--license={printable(self.license, 80)} is not a license" if self.license else "--license is missing"
      raise UserError(f"{problem}; allowed: identifiers of {LICENSES} such as apache-2.0, mit, cc-by-nc-4.0 and other")
    if (self.license == "other") != bool(self.license_name):
      raise UserError("--license=other needs --license_name, and no other license has one; give both or neither")
    if self.license_name and not re.fullmatch(r"[\w.-]{1,100}", self.license_name, re.ASCII):
      raise UserError("--license_name has other characters than letters, digits, '.', '-' and '_'; change it")
    if self.license_link and not (self.license_name and re.fullmatch(r"https://[^\s<>()\"]{1,300}", self.license_link)):
      raise UserError("--license_link must be an address https://..., and belongs to --license=other; fix or omit it")


def render_card(weights: Weights, layout: str, fields: CardFields, results: RunResults | None) -> str:
  """Renders README.md of a repository.

  Args:
    weights: that are exported.
    layout: a key of `export.LAYOUTS`.
    fields: the others.
    results: of the run that the weights are from; None: the card has no metrics.
  """
  content = {} if results is None else results.results
  return pages.render(
    "model_card.md.jinja",
    metadata=Markup(_metadata(layout, fields, content)),
    fields=fields,
    layout=layout,
    lost=[code(loss) for loss in losses(weights, layout)],
    properties=_properties(weights),
    columns=[*METRICS.values()],
    splits=[_split(name, metrics) for name, metrics in content.get("splits", {}).items()],
    evaluated=code(lookup(content, ("evaluated", "name"))),
    training=_training(content) if content else {},
    config=Markup(json.dumps(public_config(content.get("config") or {}), indent=2, sort_keys=True)),
  )


def code(value: object) -> Markup:
  """Returns untrusted text as a code span of Markdown, which may stand in a table."""
  text = printable("unknown" if value is None else value, _LIMIT).replace("`", "'").strip()
  return Markup(f"`{text or ' '}`".replace("|", r"\|"))  # no markup has a meaning in code


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a configuration that do not describe a machine, by dotted name; paths without folders."""
  return {name: _public(value) for name, value in config_tree.flatten(config) if not _OF_A_MACHINE.fullmatch(name)}


def _public(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return [_public(x) for x in value]
  if isinstance(value, str) and not value.startswith(HUB):
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
  return value


def _metadata(layout: str, fields: CardFields, results: Mapping[str, Any]) -> str:
  """Returns the YAML at the head of a card."""
  from huggingface_hub import ModelCardData  # lazy: takes a second

  library, pipeline = _LIBRARIES[layout]
  initial = str(lookup(results, ("initial_weights", "source")) or "")
  data = ModelCardData(
    license=fields.license,
    license_name=fields.license_name,
    license_link=fields.license_link,
    library_name=library,
    pipeline_tag=pipeline,
    tags=["clipvip_jax", "clip", "text-to-video-retrieval", "video-retrieval"],
    base_model=initial.removeprefix(HUB).partition("@")[0] if initial.startswith(HUB) else None,
    model_name=fields.repository,
    eval_results=list(_eval_results(results)) or None,
  )
  if not data.eval_results:
    data.pop("model_name")
  return data.to_yaml(line_break="\n")


def _eval_results(results: Mapping[str, Any]) -> Iterator["EvalResult"]:
  """Yields the plain metrics of all splits; recalls in percent."""
  from huggingface_hub import EvalResult

  corpus = printable(lookup(results, ("evaluated", "name")) or "unknown", _LIMIT)
  name, *settings = corpus.split("/")
  for split, metrics in results.get("splits", {}).items():
    for direction, label in DIRECTIONS.items():
      for metric, title in METRICS.items():
        value = lookup(metrics, ("plain", direction, metric))
        if is_number(value):
          task = _TASKS[direction if direction != GROUPED else "video_to_text"]
          yield EvalResult(
            task_type=task.lower().replace(" ", "-"),
            task_name=task,
            dataset_type=re.sub(r"[^a-z0-9_.-]+", "-", name.lower()) or "unknown",
            dataset_name=corpus,
            dataset_config=settings[0] if settings and settings[0] else None,
            dataset_split=printable(split, _LIMIT),
            metric_type=re.sub("^R@", "recall_at_", metric),
            metric_name=f"{label}: {title}",
            metric_value=float(percent(value)) if metric.startswith("R@") else round(float(value), 1),
          )


def _properties(weights: Weights) -> dict[str, object]:
  """Returns rows of the table of the model: {label: value}."""
  config = weights.config
  vocabulary = f"{config.text.vocab_size:,} tokens"
  return {
    "Parameters": f"{sum(x.size for x in weights.params.values()):,}",
    "Frames": f"{config.image_size} x {config.image_size} pixels, patches of {config.patch_size}",
    "Frames of a clip in training": code(weights.num_frames),
    "Temporal modelling": code(weights.temporal),
    "Crop": code(weights.crop),
    "Vision": f"{config.vision.layers} layers of width {config.vision.width}",
    "Added proxies": str(config.vision.added_proxies),
    "Text": f"{config.text.layers} layers of width {config.text.width}; {vocabulary}",
    "Embedding size": str(config.embed_dim),
  }


def _split(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
  rows = [
    (f"{label}, {kind.lower()}", format_metrics(lookup(metrics, (key, direction))))
    for key, kind in KINDS.items()
    for direction, label in DIRECTIONS.items()
    if lookup(metrics, (key, direction)) is not None
  ]
  accuracy = lookup(metrics, ("twins", "accuracy"))
  return {
    "name": code(name),
    "coverage": format_coverage(metrics),
    "rows": rows,
    "twins": percent(accuracy) if is_number(accuracy) else None,
  }


def _training(results: Mapping[str, Any]) -> dict[str, object]:
  """Returns rows of the table of the training: {label: value}."""
  corpora = [lookup(results, ("corpus", "name"))]
  corpora += [lookup(entry, ("name",)) for entry in (lookup(results, ("corpus", "mix")) or {}).values()]
  config = public_config(results.get("config") or {})
  initial = _public(lookup(results, ("initial_weights", "source")) or config.get("init_from") or "random parameters")
  best_by = lookup(results, ("best_by",))
  return {
    "Corpora": Markup(", ").join(code(name) for name in corpora if name is not None),
    "Initial weights": code(initial),
    "Loss": code(config.get("loss")),
    "Batch size": code(config.get("train.batch_size")),
    "Learning rate": code(config.get("optimizer.learning_rate")),
    "Steps": code(results.get("step")),
    "Step of these weights": code(f"{results.get('best_step')}, the best by {best_by}" if best_by else None),
    "Seed": code(config.get("seed")),
    "Versions": Markup(", ").join(code(f"{name} {x}") for name, x in sorted((results.get("versions") or {}).items())),
  }
