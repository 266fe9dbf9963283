"""What is evaluated: a model on the splits of a corpus, or embeddings that an evaluation kept.

What a command does not say about a model and a corpus comes, in this order, from the run of ours that the model is,
where it was trained or evaluated on that corpus; from the corpus' recipe; from `configs.common`.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from clipvip_jax.distributed import sharding
from clipvip_jax.evaluation import evaluator, split_embeddings
from clipvip_jax.evaluation.split_embeddings import SplitEmbeddings
from clipvip_jax.inference import embedding_model
from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.corpus import Corpus, check_protocol, open_corpus
from clipvip_jax.models import clip_vip
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log, printable
from clipvip_jax.weights import load_params, sources
from configs import activitynet, common, didemo, lsmdc, msrvtt

RECIPES = {"msrvtt": msrvtt, "didemo": didemo, "lsmdc": lsmdc, "activitynet_captions": activitynet}
_PROTOCOL = "--protocol"
# Of the configuration, what an evaluation reads. Where nothing of a corpus' captions is said they are not counted.
_FIELDS = {
  "data": ("name", "config", "data_dir", "num_frames", "text_length", "tokenizer", "caption", "fast_decode"),
  "evaluate": ("final_splits", "query", "protocol", "batch_size", "num_examples"),
  "host": ("num_workers",),
}
_ABOUT = {"model": dict, "num_params": int, "corpus": dict, "config": dict, "preprocessing": dict, "run": dict}


@dataclasses.dataclass(frozen=True)
class EvaluationTarget:
  """One model, or what it has left.

  Attributes:
    name: its source, or the file.
    about: what results.json says besides results, as far as it is known: "model", "num_params", "corpus", "config",
      "preprocessing", and "run", the configuration of the run of ours that the model is.
    splits: name -> its embeddings; of a model they are computed when asked for.
    kept: whether they were read from files.
    model, corpus: the model and what it is measured on; None where embeddings were read from files.
  """

  name: str
  about: dict[str, Any]
  splits: Mapping[str, Callable[[], SplitEmbeddings]]
  kept: bool = False
  model: embedding_model.EmbeddingModel | None = None
  corpus: Corpus | None = None
  config: ConfigDict | None = None


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """What a command says; None, and an empty text, where it does not."""

  dataset: str
  data_dir: str = ""
  split: str | None = None
  num_frames: int | None = None
  text_length: int | None = None
  query: str | None = None
  batch_size: int | None = None
  dtype: str | None = None
  protocol: str | None = None
  num_workers: int | None = None
  temporal: str | None = None
  tokenizer: str | None = None


def from_model(source: str, options: EvaluationOptions) -> EvaluationTarget:
  """A model of any SOURCE on a corpus, checked and loaded; nothing is computed yet.

  Raises:
    UserError: the source, the corpus or an option does not fit.
  """
  weights = sources.read_weights(source)
  if weights.run is not None:  # whose embeddings of position would be resized in silence
    load_params.check_complete(weights.params, clip_vip.parameter_shapes(weights.config), source)
  config = configuration(weights, options)
  if not config.data.tokenizer:
    vocabulary = weights.config.text.vocab_size
    raise UserError(f"{source}: there is no tokenizer for a vocabulary of {vocabulary}; name one with --tokenizer")
  mesh = sharding.make_mesh()
  sharding.check_batch_size(config.evaluate.batch_size, "--batch_size", mesh.shape)
  corpus = open_corpus(config.data, "")
  for split in config.evaluate.final_splits:
    corpus.check_queries(split, config.evaluate.query, config.data.caption, config.evaluate.protocol, _PROTOCOL)
  model = embedding_model.from_weights(
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
  assert model.tokenizer is not None  # it has a name
  found = evaluator.Evaluator(model.net, mesh, corpus, model.tokenizer, config)

  def embed(name: str) -> SplitEmbeddings:
    return dataclasses.replace(found.embeddings(model.params, name), about=about)

  return EvaluationTarget(
    name=source,
    about=about,
    splits={name: functools.partial(embed, name) for name in config.evaluate.final_splits},
    model=model,
    corpus=corpus,
    config=config,
  )


def configuration(weights: sources.Weights, options: EvaluationOptions) -> ConfigDict:
  """The sections model, data, evaluate and host of an evaluation; of the model, dtype alone is decided.

  Raises:
    UserError: a run's config.json that is none of this program.
  """
  name, _, named = options.dataset.partition("/")
  whole, is_own = _whole(weights, name)
  config = ConfigDict({section: {field: whole[section][field] for field in _FIELDS[section]} for section in _FIELDS})
  config.model = {"dtype": whole.model.dtype}
  folder = options.data_dir or config.data.data_dir
  config.data.update({"name": name, "config": named or config.data.config, "data_dir": folder})
  config.data.tokenizer = embedding_model.tokenizer_name(weights, options.tokenizer)
  if not is_own:
    config.data.text_length = min(config.data.text_length, weights.config.text.positions)
  said = {
    "model": {"dtype": options.dtype},
    "data": {name: getattr(options, name) for name in ("num_frames", "text_length")},
    "evaluate": {name: getattr(options, name) for name in ("query", "batch_size", "protocol")},
    "host": {"num_workers": options.num_workers},
  }
  for section, fields in said.items():
    config[section].update({field: value for field, value in fields.items() if value is not None})
  if options.split:
    config.evaluate.final_splits = (options.split,)
  return config


def _whole(weights: sources.Weights, name: str) -> tuple[ConfigDict, bool]:
  """(the configuration that says the rest, the corpus in its section data; whether it is that of a run on it)."""
  run = None if weights.run is None else _complete(weights.run, weights.source)
  if run is not None and name in (run.data.name, run.evaluate.get("name", "")):
    if name != run.data.name:
      folder = run.evaluate.data_dir or run.data.data_dir
      run.data.update({"config": run.evaluate.config, "data_dir": folder})
    return run, True
  if name in RECIPES:
    config = RECIPES[name].get_config("b16" if weights.config.patch_size == 16 else "b32")
    config.unlock()
    return config, False
  config = common.base()
  config.data.caption = ""
  if run is not None:
    config.data.update({"num_frames": run.data.num_frames, "text_length": run.data.text_length})
  return config, False


def _complete(run: ConfigDict, source: str) -> ConfigDict:
  """A run's configuration with the fields that were not there when it ran."""
  config = common.base()
  try:
    config.update(run.to_dict())
  except (TypeError, ValueError, AttributeError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f"{source}: its config.json is none of this program: {reason}") from error
  return config


def _about(model: embedding_model.EmbeddingModel, corpus: Corpus, config: ConfigDict) -> dict[str, Any]:
  return {
    "model": {"source": model.source, "identity": model.identity},
    "num_params": sum(x.size for x in jax.tree.leaves(model.params)),
    "corpus": {"name": corpus.name, **corpus.metadata},
    "config": config_tree.to_json_dict(config),
    "preprocessing": {
      "frames": f"{config.data.num_frames} of each clip, evenly spread: int(linspace(0, n - 1, T))",
      "size": f"squashed to {config.model.image_size} x {config.model.image_size} pixels, bicubic, no antialiasing",
      "mean": list(preprocessing.MEAN),
      "std": list(preprocessing.STD),
      "jpeg": "decoded fast" if config.data.fast_decode else "decoded exactly",
      "text": f"cut to {config.data.text_length} tokens, start and end included",
      "dtype": config.model.dtype,
    },
  }


def from_files(path: pathlib.Path, options: Any) -> list[EvaluationTarget]:
  """What evaluations have kept: a file of embeddings, or a workdir with those of one model or several.

  Args:
    path: as it was named.
    options: `split` and `protocol` of `EvaluationOptions`.

  Raises:
    UserError: there is none, it cannot be read, or not all is of one model.
  """
  name = f"embeddings_{options.split or '*'}.safetensors"
  if not path.is_dir():
    found = [[path]]
  elif own := sorted(path.glob(name)):
    found = [own]
  else:
    found = [sorted(folder.glob(name)) for folder in sorted(path.glob("model_*"))]
  if not any(found):
    raise UserError(f"--embeddings={path} holds no {name}")
  return [_kept(files, options.split, options.protocol) for files in found if files]


def _kept(paths: Sequence[pathlib.Path], split: str | None, protocol: str | None) -> EvaluationTarget:
  """The splits of one model."""
  read = [(path, split_embeddings.read_embeddings(path)) for path in paths]
  about = read[0][1].about
  for path, found in read:
    if split and found.split != split:
      raise UserError(f"{path} holds the split {found.split!r}, not --split={split}")
    if found.about != about:
      raise UserError(f"{path} was made by another model or otherwise than {paths[0]}: name one of them")
  about = {name: value for name, value in about.items() if name in _ABOUT}
  wrong = [name for name, value in about.items() if not isinstance(value, _ABOUT[name])]
  wrong += [name for name, value in about.items() if name == "num_params" and not (name in wrong or 0 <= value < 2**63)]
  if wrong:
    raise UserError(f"{paths[0]} is no file of embeddings: about.{wrong[0]} is {printable(str(about[wrong[0]])[:40])}")
  config = about["config"] = {**about.get("config", {})}
  section = config.get("evaluate")
  config["evaluate"] = {"protocol": "single", **(section if isinstance(section, dict) else {})}
  if protocol:
    config["evaluate"]["protocol"] = protocol
  for path, found in read:
    check_protocol(config["evaluate"]["protocol"], found.ids, found.labels, str(path), _PROTOCOL)
  log.info("embeddings of %s", ", ".join(str(path) for path in paths))
  splits = {found.split: functools.partial(lambda found: found, found) for _, found in read}
  return EvaluationTarget(", ".join(map(str, paths)), about, splits, kept=True)


def check_comparable(all_evaluated: Sequence[EvaluationTarget]) -> None:
  """Refuses models that cannot be runs of one experiment: all but seed and folders must be the same.

  Runs may start from runs that differ so, as PRETRAIN/seed_0 and PRETRAIN/seed_1: `init_from` may differ by the seeds.

  Raises:
    UserError: names what differs, with both values.
  """
  for first, other in itertools.combinations(all_evaluated, 2):
    identities = [one.about.get("model", {}).get("identity") for one in (first, other)]
    if identities[0] is not None and identities[0] == identities[1]:
      raise UserError(f"{first.name} and {other.name} are the same weights: their spread says nothing")
    pairs = [(first.about.get(name, {}), other.about.get(name, {})) for name in ("corpus", "config")]
    pairs.append(({"splits": list(first.splits)}, {"splits": list(other.splits)}))
    runs = [one.about.get("run") for one in (first, other)]
    if all(runs):
      pairs.append((runs[0], runs[1]))
    elif any(runs):
      a, b = ("a run" if one else "none" for one in runs)
      pairs.append(({"weights of a run": a}, {"weights of a run": b}))
    different = {name: words for a, b in pairs for name, words in _differences(a, b).items()}
    if different:
      raise UserError(
        f"{first.name} and {other.name} are no runs of one experiment, which differ in seed and folders alone:"
        f" {'; '.join(f'{name} {words}' for name, words in sorted(different.items()))}"
      )
    if first.kept and any(
      _questions(first.splits[split]()) != _questions(other.splits[split]()) for split in other.splits
    ):
      raise UserError(f"{first.name} and {other.name} hold other clips or queries")


def _same_but_for_seeds(a: dict[str, Any], b: dict[str, Any]) -> bool:
  """Whether two configurations start from the same weights, or from runs of their own seeds."""
  if a.get("init_from") == b.get("init_from"):
    return True
  sides = [re.split(r"(\d+)", str(flat.get("init_from", ""))) for flat in (a, b)]
  seeds = str(a.get("seed")), str(b.get("seed"))
  pairs = itertools.zip_longest(*sides)
  return all(x == y or (x, y) == seeds for x, y in pairs)


def _questions(found: SplitEmbeddings) -> tuple[list[str], list[str], list[int]]:
  return found.ids, found.texts, found.labels


def _differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, str]:
  flat_a, flat_b = dict(config_tree.flatten(a)), dict(config_tree.flatten(b))
  free = {"seed", "data.prepare", "data.tokenizer", "model.attention"}
  free |= {"init_from"} if _same_but_for_seeds(flat_a, flat_b) else set()
  return {
    name: f"{flat_a.get(name, 'absent')!r} and {flat_b.get(name, 'absent')!r}"
    for name in flat_a.keys() | flat_b.keys()
    if flat_a.get(name) != flat_b.get(name)
    and name not in free
    and not name.startswith("host.")
    and not name.endswith("data_dir")
  }
