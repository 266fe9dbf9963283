"""Engine that runs an image-to-text model of HuggingFace transformers in this process."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clipvip_jax.captioning.engine import DEFAULT_PROMPT, Answer, NumberedFrame, run_in_batches
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import log, printable
from clipvip_jax.weights.hub_errors import describe_hub_error
from clipvip_jax.weights.source_paths import HUB, split_hub_name

INSTALL = "pip install 'clipvip_jax[caption]'"
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_WEIGHTS = "*.safetensors"


class TransformersEngine:
  """Describes frames with a model that `AutoModelForImageTextToText` loads: BLIP, BLIP-2, GIT, Florence-2, Qwen-VL."""

  def __init__(
    self,
    source: str,
    prompt: str | None,
    parameters: dict[str, Any],
    batch_size: int,
    *,
    trust_remote_code: bool = False,
  ):
    """Finds the model; it is loaded by `check`.

    Args:
      source: a folder, or hf://OWNER/NAME[@REVISION].
      prompt: the question, or the beginning of the caption; "" for none; None: the default of models that converse.
      parameters: of transformers' `generate`.
      batch_size: frames per call.
      trust_remote_code: whether Python code of the model's folder may run.

    Raises:
      UserError: a package is not installed, there is no such model, its weights are not in safetensors, or it has code
        of its own that is not trusted.
    """
    _import_packages()
    self._folder = _download(source, trust_remote_code) if source.startswith(HUB) else pathlib.Path(source)
    _check_folder(self._folder, source, trust_remote_code)
    if prompt is None:  # a model without conversations would continue it
      prompt = DEFAULT_PROMPT if _has_chat_template(self._folder) else ""
    self._source, self._prompt, self._parameters = source, prompt, parameters
    self._batch_size, self._trusted = batch_size, trust_remote_code

  @functools.cached_property
  def _digest(self) -> str:
    weights = sorted(self._folder.glob(_WEIGHTS))
    digests = file_digests.digest_files([self._folder / "config.json", *weights])
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]

  def describe(self) -> dict[str, Any]:
    """See `Engine`. The model is named by its folder's name and the digest of its weights, not by its path."""
    import transformers

    name = self._source if self._source.startswith(HUB) else self._folder.resolve().name
    return {
      "engine": "transformers", "model": name, "model_digest": self._digest, "prompt": self._prompt,
      "parameters": self._parameters, "transformers": transformers.__version__
    }  # fmt: skip

  def check(self) -> None:
    """Loads the model. Raises UserError if it cannot be loaded, or does not describe images."""
    self._generate  # noqa: B018  # loads it

  def run(self, frames: Iterator[NumberedFrame], done: Callable[[int, Answer], None]) -> None:
    """See `Engine`."""
    run_in_batches(frames, self._batch_size, self._generate, done)

  @functools.cached_property
  def _generate(self) -> Callable[[Sequence[UInt8[np.ndarray, "h w 3"]]], list[Answer]]:
    """The loaded model as a function of frames."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    options = {"trust_remote_code": self._trusted, "local_files_only": True}
    try:
      processor = transformers.AutoProcessor.from_pretrained(self._folder, **options)
      model = transformers.AutoModelForImageTextToText.from_pretrained(
        self._folder, use_safetensors=True, dtype="auto", **options
      )
    except Exception as error:  # of many types: missing files, unknown architectures, other shapes
      raise UserError(
        f"--model={self._source}: transformers cannot load it as an image-to-text model"
        f" ({printable(first_line(error), 200)}); name another one, or update transformers"
      ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    log.info("%s runs on %s", self._source, device)
    if getattr(processor, "tokenizer", None) is not None:
      processor.tokenizer.padding_side = "left"  # a decoder continues the last token
    return functools.partial(_generate, processor, model.to(device).eval(), self._prompt, self._parameters)


def _generate(
  processor: Any, model: Any, prompt: str, parameters: dict[str, Any], frames: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> list[Answer]:
  """Returns the answers of a model to a batch of frames."""
  import torch
  from PIL import Image

  images = [Image.fromarray(frame) for frame in frames]
  text = _chat_prompt(processor, prompt) or prompt
  inputs = processor(images=images, return_tensors="pt", **({"text": [text] * len(images)} if text else {}))
  if text and model.config.model_type == "git":  # it continues the prompt: without the token that ends it
    inputs.update({name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")})
  inputs = inputs.to(model.device, model.dtype)
  try:
    with torch.inference_mode():
      generated = model.generate(**inputs, **parameters)
  except Exception as error:  # of many types: unknown parameters, too little memory
    raise UserError(
      f"--engine=transformers cannot describe frames ({printable(first_line(error), 200)}); check --parameters and"
      " --prompt, or pass a smaller --batch_size"
    ) from error
  given = inputs.get("input_ids")
  limit = parameters.get("max_new_tokens", 0)
  answers = []
  for index, ids in enumerate(generated):
    start = 0 if given is None or not _starts_with(ids, given[index]) else given.shape[1]
    answer = processor.decode(ids[start:], skip_special_tokens=True).strip()
    if not start and prompt and answer.startswith(prompt):  # of an encoder and decoder, such as BLIP
      answer = answer[len(prompt) :].strip()
    new = ids[start:]
    ended = model.generation_config.eos_token_id
    answers.append(Answer(answer, incomplete=bool(limit and len(new) >= limit and not _has_end(new, ended))))
  return answers


def _chat_prompt(processor: Any, prompt: str) -> str:
  """Returns the prompt in the model's own form of a conversation; "" if it has none."""
  if not getattr(processor, "chat_template", None):
    return ""
  content = [{"type": "image"}, {"type": "text", "text": prompt}]
  return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _starts_with(ids: Any, given: Any) -> bool:
  return len(ids) >= len(given) and bool((ids[: len(given)] == given).all())


def _has_end(ids: Any, ends: int | list[int] | None) -> bool:
  return bool({*ids.tolist()} & {*(ends if isinstance(ends, list) else [ends])})


def _import_packages() -> None:
  try:
    import torch  # noqa: F401
    import transformers  # noqa: F401
  except ImportError as error:
    raise UserError(
      f"--engine=transformers needs {error.name or 'a package'}, which is not installed: {INSTALL}"
    ) from error


def _check_folder(folder: pathlib.Path, source: str, trust_remote_code: bool) -> None:
  try:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"--model={source} has no readable config.json; name a folder of a transformers model, or {HUB}OWNER/NAME"
    ) from error
  configs = [config, *(_read_optional(folder / name) for name in ("processor_config.json", "tokenizer_config.json"))]
  if any(isinstance(part, dict) and part.get("auto_map") for part in configs) and not trust_remote_code:
    raise UserError(
      f"--model={source} needs Python code of its own, which is not run; read that code, then pass --trust_remote_code,"
      " or name another model"
    )
  if not any(folder.glob(_WEIGHTS)):
    raise UserError(
      f"--model={source} has no weights in safetensors; pickled weights may run code: convert them with"
      " save_pretrained, or name another model"
    )


def _has_chat_template(folder: pathlib.Path) -> bool:
  if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
    return True
  configs = (_read_optional(folder / name) for name in ("processor_config.json", "tokenizer_config.json"))
  return any(isinstance(config, dict) and config.get("chat_template") for config in configs)


def _read_optional(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError):
    return None


def _download(source: str, code: bool) -> pathlib.Path:
  """Downloads a model, with its code if that is trusted, into the Hub's cache, and returns its folder.

  Raises:
    UserError: that fails.
  """
  import huggingface_hub

  name, revision = split_hub_name(source)
  patterns = [*_FILES, *(["*.py"] if code else [])]
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
  except Exception as error:  # the package raises many types
    raise UserError(f"--model={source} cannot be downloaded: {describe_hub_error(error)}") from error
