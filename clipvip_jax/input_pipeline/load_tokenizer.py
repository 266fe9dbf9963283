"""Loads a tokenizer by its name or file."""

import os

from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer
from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer
from clipvip_jax.input_pipeline.tokenizer import Tokenizer
from clipvip_jax.utils import placeholder_files
from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.compression import START_BYTES, check_encoding
from clipvip_jax.utils.errors import UserError


def load_tokenizer(name_or_path: str | os.PathLike) -> Tokenizer:
  """Loads a tokenizer.

  Args:
    name_or_path: "clip" for CLIP's own vocabulary, or the path or address of a `tokenizer.json`, written by
      `WordTokenizer.save` or published with a CLIP model on HuggingFace.

  Raises:
    UserError: the file does not exist, is unreadable, a placeholder, or not a tokenizer for CLIP's text tower.
  """
  if name_or_path == "clip":
    return ClipTokenizer()
  try:
    data = fetch_file(name_or_path).expanduser().read_bytes()
    check_encoding(data[:START_BYTES], name_or_path)
    content = data.decode()
  except OSError as error:
    raise UserError(
      f"cannot read the tokenizer {os.fspath(name_or_path)!r} ({error.strerror}); use 'clip' or the path of a"
      " tokenizer.json"
    ) from error
  except UnicodeDecodeError as error:
    raise UserError(f"{name_or_path} is not a tokenizer.json ({error}); use a JSON file in UTF-8") from error
  if placeholder := placeholder_files.describe(content.encode()):
    raise UserError(f"{name_or_path} is {placeholder}")
  return JsonTokenizer(content, os.fspath(name_or_path))
