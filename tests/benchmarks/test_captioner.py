"""A captioner trained on stills, and the road of its captions into an edition of the corpus."""

import json
import sys

import pytest
import written_corpus
from ml_collections import ConfigDict
from optional_packages import needs_transformers
from small_runs import config

from benchmarks import captioner
from benchmarks.caption_accuracy import accuracy, captioned
from clipvip_jax import caption, data_tool
from clipvip_jax.configs import generated_captions
from clipvip_jax.data.moving_shapes import scenes
from clipvip_jax.data.moving_shapes.moving_shapes_dataset_builder import Builder
from clipvip_jax.input_pipeline.open_corpus import open_corpus
from clipvip_jax.utils.errors import UserError

STEPS = generated_captions.CAPTIONER_STEPS[-1]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Dataset directory with moving_shapes/smoke."""
  folder = tmp_path_factory.mktemp("corpora")
  open_corpus(config(folder).data)
  return folder


def train(data_dir, out, *flags):
  captioner.main(["moving_shapes", "--config=smoke", f"--data_dir={data_dir}", f"--out={out}", "--steps=60", *flags])
  return json.loads((out / captioner.TRAINING_FILE).read_text())["validation"]


@needs_transformers
@pytest.mark.slow
def test_its_captions_become_an_edition_that_an_arm_opens(data_dir, tmp_path):
  measured = train(data_dir, tmp_path / "model")
  assert measured["shape"] > 0.4 and measured["right"] < 1, "better than chance, on few frames and steps"
  flags = [f"--data_dir={data_dir}", "--config=smoke"]
  model = ["--engine=transformers", f"--model={tmp_path}/model", "--batch_size=64"]
  caption.main(["moving_shapes", *flags, *model, f"--out={tmp_path}/captions"])
  edition = f"smoke+captioner_{STEPS}"
  data_tool.main(["add-captions", "moving_shapes", str(tmp_path / "captions"), *flags, f"--name={edition}"])
  section = generated_captions.get_config(f"captioner_{STEPS},smoke").data.copy_and_resolve_references()
  with section.unlocked():
    section.data_dir = str(data_dir)
  edited, rendered = (captioned(open_corpus(data), "train") for data in (section, config(data_dir).data))
  assert len(edited) > len(rendered), "clips without a rendered caption have one, too"
  pairs = [(text, edited[name]) for name, text in rendered.items()]
  assert accuracy(pairs)["shape"] > 0.4 and any(text != generated for text, generated in pairs)


@needs_transformers
@pytest.mark.slow
def test_the_seed_determines_it_and_a_complete_one_is_kept(data_dir, tmp_path):
  for name in ("one", "two"):
    train(data_dir, tmp_path / name, "--steps=20")
  train(data_dir, tmp_path / "other", "--steps=20", "--seed=1")
  one, two, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "other"))
  assert one == two != other
  path = tmp_path / "one" / "model.safetensors"
  path.write_bytes(b"kept")
  train(data_dir, tmp_path / "one", "--steps=20")
  assert path.read_bytes() == b"kept"
  with pytest.raises(UserError, match=r"one holds a captioner of other settings .*; choose another --out"):
    train(data_dir, tmp_path / "one", "--steps=21")


def test_stills_are_middle_frames_of_clips_with_a_caption(tmp_path):
  records = [{"id": str(i), "frames": [b"%d %d" % (i, j) for j in range(5)], "caption": "a" * i} for i in range(3)]
  written_corpus.write(tmp_path, records, name="video_manifest", config="mine")
  corpus = open_corpus(ConfigDict({"name": "video_manifest", "config": "mine", "data_dir": str(tmp_path)}), "")
  assert captioner.load_stills(corpus, "train") == ([b"1 2", b"2 2"], ["a", "aa"])


def test_what_it_learns_has_no_words_of_motion():
  motion = {word for name in (*scenes.STRAIGHT, *scenes.ROUND) for word in name.split("-")} | {"slowly", "quickly"}
  clips = Builder.builder_configs["smoke"].plan().split("train")
  assert motion & {word for clip in clips for word in clip.description.split()}
  assert not motion & {word for clip in clips for word in clip.caption.split()}


def test_without_the_extra_the_message_names_its_command(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"needs torch, which is not installed: pip install 'clipvip_jax\[caption\]'"):
    train(tmp_path, tmp_path / "model")
  assert not list(tmp_path.iterdir())


def test_too_few_steps_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"^--steps=19 is out of range; use at least 20$"):
    train(tmp_path, tmp_path / "model", "--steps=19")
