"""HuggingFace models in this process: random BLIP and GIT, and what is refused before a model is loaded."""

import json
import sys

import pytest
import random_captioner
from caption_endpoint import picture
from optional_packages import needs_transformers

from clipvip_jax.captioning import transformers_engine
from clipvip_jax.captioning.transformers_engine import TransformersEngine
from clipvip_jax.utils.errors import UserError

PARAMETERS = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": [0, 1, 2, 3, 4]}  # words only


@pytest.fixture
def no_packages_needed(monkeypatch):
  """Checks of folders run without torch."""
  monkeypatch.setattr(transformers_engine, "_import_packages", lambda: None)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """{name: folder} of random models."""
  folder = tmp_path_factory.mktemp("models")
  random_captioner.write_blip(folder / "blip")
  random_captioner.write_git(folder / "git")
  return {"blip": folder / "blip", "git": folder / "git"}


def run(folder, batch_size, prompt=None, count=5):
  engine = TransformersEngine(str(folder), prompt, PARAMETERS, batch_size)
  engine.check()
  answers = {}
  engine.run(iter((i, picture(700 * i)) for i in range(count)), answers.__setitem__)
  return engine, answers


@needs_transformers
@pytest.mark.parametrize("name", ["blip", "git"])
@pytest.mark.parametrize("prompt", [None, "a blue"])
def test_a_batch_equals_single_frames(models, name, prompt):
  engine, single = run(models[name], 1, prompt)
  assert run(models[name], 3, prompt)[1] == single
  texts = [answer.text for answer in single.values()]
  assert all(texts) and len({*texts}) > 1  # of other pictures, other words
  if prompt:
    assert not any(text.startswith(prompt) for text in texts)
  header = engine.describe()
  assert (header["model"], header["prompt"]) == (name, prompt or "")
  assert header["parameters"] == PARAMETERS and len(header["model_digest"]) == 16


@needs_transformers
def test_answers_are_those_of_transformers_itself(models):
  import torch
  import transformers
  from PIL import Image

  from clipvip_jax.input_pipeline.image_files import decode_image

  processor = transformers.AutoProcessor.from_pretrained(models["blip"])
  model = transformers.BlipForConditionalGeneration.from_pretrained(models["blip"]).eval()
  _, answers = run(models["blip"], 2)
  for i in range(5):
    inputs = processor(images=Image.fromarray(decode_image(picture(700 * i))), return_tensors="pt")
    with torch.inference_mode():
      (ids,) = model.generate(**inputs, **PARAMETERS)
    assert answers[i].text == processor.decode(ids, skip_special_tokens=True).strip()


@needs_transformers
def test_the_digest_is_of_the_weights(models, tmp_path):
  from safetensors.numpy import load_file, save_file

  weights = load_file(models["git"] / "model.safetensors")
  for path in models["git"].iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  name = next(iter(weights))
  save_file({**weights, name: weights[name] + 1}, tmp_path / "model.safetensors", {"format": "pt"})
  digests = [
    TransformersEngine(str(folder), "", {}, 1).describe()["model_digest"] for folder in (models["git"], tmp_path)
  ]
  assert digests[0] != digests[1]


@needs_transformers
def test_unknown_parameters_are_refused_in_one_line(models):
  engine = TransformersEngine(str(models["blip"]), "", {"no_such_parameter": 1}, 2)
  with pytest.raises(UserError, match=r"cannot describe frames \(.*no_such_parameter.*\); check --parameters"):
    engine.run(iter([(0, picture(0))]), lambda number, answer: None)


@needs_transformers
def test_another_kind_of_model_is_refused_in_one_line(models, tmp_path):
  for path in models["blip"].iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
  with pytest.raises(UserError, match=r"transformers cannot load it as an image-to-text model \(.*\); name another"):
    TransformersEngine(str(tmp_path), "", {}, 1).check()


def test_without_the_extra_the_message_names_its_command(monkeypatch):
  monkeypatch.setitem(sys.modules, "transformers", None)
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"needs torch, which is not installed: pip install 'clipvip_jax\[caption\]'"):
    TransformersEngine("folder", "", {}, 1)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_of_a_folder_runs_only_if_it_is_asked_for(no_packages_needed, tmp_path, name):
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "model.safetensors").touch()
  (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
  with pytest.raises(UserError, match=r"needs Python code of its own, which is not run; .* pass --trust_remote_code"):
    TransformersEngine(str(tmp_path), "", {}, 1)
  TransformersEngine(str(tmp_path), "", {}, 1, trust_remote_code=True)


def test_pickled_weights_and_other_folders_are_refused(no_packages_needed, tmp_path):
  with pytest.raises(UserError, match=r"has no readable config.json; name a folder of a transformers model"):
    TransformersEngine(str(tmp_path), "", {}, 1)
  (tmp_path / "config.json").write_text("[" * 100_000)
  with pytest.raises(UserError, match=r"has no readable config.json"):
    TransformersEngine(str(tmp_path), "", {}, 1)
  (tmp_path / "config.json").write_text("{}")
  (tmp_path / "pytorch_model.bin").touch()
  with pytest.raises(UserError, match="no weights in safetensors; pickled weights may run code"):
    TransformersEngine(str(tmp_path), "", {}, 1)
  with pytest.raises(UserError, match="is not a repository of the HuggingFace Hub"):
    TransformersEngine("hf://no", "", {}, 1)
