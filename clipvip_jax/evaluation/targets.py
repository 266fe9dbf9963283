"""Evaluation targets: a model of any SOURCE on the splits of a corpus, or embeddings that an evaluation kept."""

import dataclasses
import fnmatch
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clu import parameter_overview
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.evaluation import split_embeddings
from clipvip_jax.evaluation.evaluation_config import EvaluationOptions, evaluation_config
from clipvip_jax.evaluation.evaluator import Evaluator
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.inference import feature_file, load_model
from clipvip_jax.inference.embedding_model import EmbeddingModel
from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.corpus import Corpus, check_protocol
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.models import clip_vip
from clipvip_jax.utils import bucket_copies, config_tree, storage, transfers
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.weights import load_params, sources
from clipvip_jax.weights.model_config import Hints

_PROTOCOL = "--protocol"
_DESCRIBED_PIXELS = {
  "float32": "resized and normalised in float32",
  "uint8": "resized, rounded to 8 bits, then normalised",
}
_ABOUT_TYPES = {"model": dict, "num_params": int, "corpus": dict, "config": dict, "preprocessing": dict, "run": dict}


@dataclasses.dataclass(frozen=True)
class ModelOnCorpus:
  """A loaded model and the corpus that it is evaluated on; `config` has the sections model, data, evaluate, host."""

  model: EmbeddingModel
  corpus: Corpus
  config: ConfigDict


@dataclasses.dataclass(frozen=True)
class EvaluationTarget:
  """The splits of one model.

  Attributes:
    name: SOURCE of the model, or the files of the embeddings.
    about: what results.json holds besides results, as far as it is known: "model", "num_params", "corpus", "config",
      "preprocessing", and "run", the configuration of the run that the weights are from.
    splits: by name, a function that returns the embeddings; those of a loaded model are computed by the call.
    loaded: None for embeddings that were read from files.
  """

  name: str
  about: dict[str, Any]
  splits: Mapping[str, Callable[[], SplitEmbeddings]]
  loaded: ModelOnCorpus | None = None

  @property
  def corpus_name(self) -> str:
    """NAME/CONFIG/VERSION of the corpus."""
    return str(self.about.get("corpus", {}).get("name", "an unknown corpus"))


def from_model(source: str, options: EvaluationOptions) -> EvaluationTarget:
  """Loads a model of any SOURCE and opens the corpus; nothing is computed yet.

  Raises:
    UserError: the source, the corpus or an option does not fit.
  """
  weights = sources.read_weights(source, Hints(crop=options.crop))
  if weights.run is not None:  # otherwise its position embedding would be resized without a message
    fields = {"model": "config.model of its config.json", "remedy": "restore config.json"}
    load_params.check_complete(weights.params, clip_vip.parameter_shapes(weights.config), source, **fields)
  config = evaluation_config(weights, options)
  if not config.data.tokenizer:
    vocab_size = weights.config.text.vocab_size
    raise UserError(f"{source}: no tokenizer is known for a vocabulary of {vocab_size}; pass one with --tokenizer")
  mesh = sharding.make_mesh()
  sharding.check_batch_size(config.evaluate.batch_size, "--batch_size", mesh.shape)
  corpus = open_corpus(config.data, "")
  for split in config.evaluate.final_splits:
    corpus.check_queries(split, config.evaluate.query, config.data.caption, config.evaluate.protocol, _PROTOCOL)
  model = load_model.from_weights(
    weights,
    num_frames=config.data.num_frames,
    text_length=config.data.text_length,
    temporal=options.temporal,
    tokenizer=config.data.tokenizer,
    dtype=config.model.dtype,
    batch_size=config.evaluate.batch_size,
  )
  config.model = model.config.model
  about = _about(model, corpus, config)
  if weights.run is not None:
    about["run"] = config_tree.to_json_dict(weights.run)
  assert model.tokenizer is not None  # its name is known
  evaluator = Evaluator(model.net, mesh, corpus, model.tokenizer, config)

  def embed(split: str) -> SplitEmbeddings:
    return dataclasses.replace(evaluator.embeddings(model.params, split), about=about)

  splits = {split: functools.partial(embed, split) for split in config.evaluate.final_splits}
  return EvaluationTarget(source, about, splits, ModelOnCorpus(model, corpus, config))


def _about(model: EmbeddingModel, corpus: Corpus, config: ConfigDict) -> dict[str, Any]:
  return {
    "model": {"source": model.source, "identity": model.identity},
    "num_params": int(parameter_overview.count_parameters(model.params)),
    "corpus": {"name": corpus.name, **corpus.metadata},
    "config": config_tree.to_json_dict(config),
    "preprocessing": {
      "frames": f"{config.data.num_frames} of each clip, evenly spread: int(linspace(0, n - 1, T))",
      "size": f"{_describe_crop(config)}, bicubic, no antialiasing",
      "mean": list(preprocessing.MEAN),
      "std": list(preprocessing.STD),
      "pixels": _DESCRIBED_PIXELS[config.data.pixels],
      "jpeg": "decoded fast" if config.data.fast_decode else "decoded exactly",
      "text": f"cut to {config.data.text_length} tokens, start and end included",
      "dtype": config.model.dtype,
    },
  }


def _describe_crop(config: ConfigDict) -> str:
  size = config.model.image_size
  if config.data.crop == "squash":
    return f"squashed to {size} x {size} pixels"
  return f"shorter side resized to {size} pixels, centre cropped to {size} x {size}"


def from_files(path: pathlib.PurePath, split: str | None = None, protocol: str | None = None) -> list[EvaluationTarget]:
  """Reads the embeddings that evaluations kept.

  Args:
    path: a file of embeddings, or the workdir of an evaluation of one model or several; local or in a bucket.
    split: None: all splits that were kept.
    protocol: None: that of the evaluation.

  Returns:
    One target per model.

  Raises:
    UserError: there are no embeddings, a file is corrupt, or the files of one folder are of different models.
  """
  pattern = split_embeddings.file_name(split or "*")
  local = _fetch(path, pattern)
  if not local.is_dir():
    models = [[local]]
  elif files := sorted(local.glob(pattern)):
    models = [files]
  else:
    folders = sorted(local.glob("model_*"), key=lambda folder: (len(folder.name), folder.name))  # 10 after 9
    models = [sorted(folder.glob(pattern)) for folder in folders]
  if not any(models):
    raise UserError(f"--embeddings={path} holds no {pattern}; name the workdir of an evaluation")
  with bucket_copies.errors_by_address():
    return [_read_target(files, split, protocol) for files in models if files]


def _fetch(path: pathlib.PurePath, pattern: str) -> pathlib.Path:
  """Downloads embeddings from a bucket: a file, or those of a folder and of the models in it that match a pattern."""
  if not storage.is_remote(path) or path.suffix == feature_file.SUFFIX:
    return bucket_copies.fetch_file(path)
  local = bucket_copies.local_copy(path)
  patterns = (pattern, f"model_*/{pattern}")
  transfers.download_folder(storage.absolute(path), local, lambda name: any(fnmatch.fnmatch(name, p) for p in patterns))
  return local


def _read_target(paths: Sequence[pathlib.Path], split: str | None, protocol: str | None) -> EvaluationTarget:
  """Reads the splits of one model."""
  splits = {path: split_embeddings.read_embeddings(path) for path in paths}
  about = splits[paths[0]].about
  for path, embeddings in splits.items():
    if split and embeddings.split != split:
      raise UserError(f"{path} holds the split {embeddings.split!r}, not --split={split}")
    if embeddings.about != about:
      raise UserError(f"{path} and {paths[0]} differ in model or settings; name one of the files")
  about = _checked_about(about, paths[0])
  config = about["config"] = {**about.get("config", {})}
  section = config.get("evaluate")
  config["evaluate"] = {"protocol": "single", **(section if isinstance(section, dict) else {})}
  if protocol:
    config["evaluate"]["protocol"] = protocol
  for path, embeddings in splits.items():
    check_protocol(config["evaluate"]["protocol"], embeddings.ids, embeddings.labels, str(path), _PROTOCOL)
  log.info("embeddings of %s", bucket_copies.to_addresses(", ".join(map(str, paths))))
  loaders = {embeddings.split: functools.partial(_identity, embeddings) for embeddings in splits.values()}
  return EvaluationTarget(bucket_copies.to_addresses(", ".join(map(str, paths))), about, loaders)


def _identity(embeddings: SplitEmbeddings) -> SplitEmbeddings:
  return embeddings


def _checked_about(about: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """Returns the known entries of `about`, whose types are checked."""
  about = {name: value for name, value in about.items() if name in _ABOUT_TYPES}
  wrong = [name for name, value in about.items() if not isinstance(value, _ABOUT_TYPES[name])]
  if not wrong and not 0 <= about.get("num_params", 0) < 2**63:
    wrong = ["num_params"]
  if wrong:
    raise UserError(f"{path} is not a file of embeddings: about.{wrong[0]} is {printable(about[wrong[0]], 40)}")
  return about
