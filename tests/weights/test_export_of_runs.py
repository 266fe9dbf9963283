"""Export of a run: whatever is needed to embed as the run, its tokenizer, and layouts that cannot express it."""

import numpy as np
import pytest
from random_run import random_run
from safetensors.numpy import load_file, save_file

from clipvip_jax import convert
from clipvip_jax.inference import load_model
from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import export, sources


def embedded(model):
  clips = np.random.default_rng(0).normal(size=(1, 6, 32, 32, 3)).astype(np.float32)
  return np.array(list(model.embed_pixels(clips)))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("changes", "layout"),
  [
    ({"temporal": "full"}, "clip_vip"),
    ({"added": 0, "time": 0}, "clip_vip"),
    ({"added": 0, "time": 0}, "clip"),
    ({"added": 0, "time": 0, "temporal": "full"}, "openclip"),
    ({"added": 0, "time": 5}, "clip_vip"),
    ({"added": 0, "time": 0, "temporal": "mean"}, "clip_vip"),
    ({"added": 0, "time": 0, "crop": "center"}, "clip"),
  ],
)
def test_export_of_a_run_embeds_as_the_run(tmp_path, changes, layout):
  weights = random_run(**changes)
  expected = embedded(load_model.from_weights(weights))
  export.export_weights(weights, tmp_path / "out.safetensors", layout)
  export.export_weights(weights, tmp_path / "out", layout)
  # Other tools drop the metadata of a file; the configuration has the same values.
  save_file(load_file(tmp_path / "out" / export.LAYOUTS[layout][0]), tmp_path / "out" / export.LAYOUTS[layout][0])
  for source in ("out.safetensors", "out"):
    model = load_model.load(str(tmp_path / source))
    assert (model.config.model.temporal, model.config.data.num_frames) == (weights.config.temporal, 6)
    assert (model.config.data.text_length, model.config.data.crop) == (9, weights.crop)
    np.testing.assert_array_equal(embedded(model), expected)


@pytest.mark.parametrize(
  ("changes", "reported"),
  [
    ({"temporal": "full"}, True),
    ({"temporal": "full", "added": 0, "time": 0}, True),
    ({"temporal": "mean"}, True),
    ({"temporal": "mean", "added": 0}, True),
    ({"temporal": "mean", "added": 0, "time": 0}, False),
    ({"temporal": "proxies"}, False),
  ],
)
def test_what_the_code_of_clip_vip_computes_otherwise_is_reported(tmp_path, caplog, monkeypatch, changes, reported):
  monkeypatch.setattr(log, "propagate", True)
  export.export_weights(random_run(**changes), tmp_path / "out.safetensors", "clip_vip")
  message = f"CLIP-ViP's code computes temporal='proxies'; only this project reads '{changes['temporal']}'"
  assert (message in caplog.text) == reported


def test_default_layout_of_a_run_without_proxies_is_clip_vip(tmp_path):
  export.export_weights(random_run(added=0, time=0), tmp_path / "run.safetensors", "clip")
  convert.main([str(tmp_path / "run.safetensors"), str(tmp_path / "out.safetensors")])
  assert "clipmodel.vision_model.embeddings.added_cls" in load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("temporal", ["proxies", "full", "mean"])
@pytest.mark.parametrize(("added", "time"), [(0, 0), (0, 5), (2, 0)])
def test_export_of_a_run_is_a_plain_clip_where_the_run_is(tmp_path, added, time, temporal):
  weights = random_run(added, time, temporal)
  export.export_weights(weights, tmp_path / "out.safetensors", "clip_vip")
  export.export_weights(weights, tmp_path / "out", "clip_vip")
  for source in ("out.safetensors", "out"):
    again = sources.read_weights(str(tmp_path / source))
    assert (again.is_clip, again.temporal) == (weights.is_clip, temporal), "init_from resets the logit scale of CLIP's"


@pytest.mark.parametrize("vocab_size", [100, 49408])
def test_tokenizer_of_a_run_is_exported_and_read_back(tmp_path, vocab_size):
  file = tmp_path / "tokenizer.json"
  WordTokenizer.train(["a red square moves up"], 100).save(file)
  weights = random_run(tokenizer=str(file))
  weights.config.text.vocab_size = vocab_size
  weights.params["text/token_embedding"] = np.ones((vocab_size, 48), np.float32)
  export.export_weights(weights, tmp_path / "out", "clip_vip")
  again = sources.read_weights(str(tmp_path / "out"))
  assert load_model.tokenizer_name(again) == str(tmp_path / "out" / "tokenizer.json")
  assert (tmp_path / "out" / "tokenizer.json").read_bytes() == file.read_bytes()
  with pytest.raises(UserError, match=r"tokenizer\.json already exists; use another target, or add --overwrite"):
    export.export_weights(weights, tmp_path / "out", "clip_vip")


def test_tokenizer_that_the_run_names_is_exported(tmp_path):
  WordTokenizer.train(["a red square moves up"], 100).save(tmp_path / "words.json")
  weights = random_run(trained_tokenizer=str(tmp_path / "words.json"))
  export.export_weights(weights, tmp_path / "out", "clip_vip")
  texts = ["a red square", "up"]
  expected = load_model.from_weights(weights).embed_texts(texts)
  np.testing.assert_array_equal(load_model.load(str(tmp_path / "out")).embed_texts(texts), expected)


def test_file_of_a_run_with_its_own_tokenizer_embeds_no_texts_with_another(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(log, "propagate", True)
  WordTokenizer.train(["a red square"], 100).save(tmp_path / "words.json")
  weights = random_run(tokenizer=str(tmp_path / "words.json"))
  export.export_weights(weights, tmp_path / "out.safetensors", "clip_vip")
  assert "a file does not hold the tokenizer; export to a folder" in caplog.text
  assert not load_model.tokenizer_name(sources.read_weights(str(tmp_path / "out.safetensors")))


@pytest.mark.parametrize("trained_tokenizer", ["gone.json", "words"])
def test_run_whose_tokenizer_is_missing_embeds_no_texts_with_another(tmp_path, caplog, monkeypatch, trained_tokenizer):
  monkeypatch.setattr(log, "propagate", True)
  weights = random_run(trained_tokenizer=trained_tokenizer)
  weights.config.text.vocab_size = 49408  # as many ids as CLIP's vocabulary
  weights.params["text/token_embedding"] = np.ones((49408, 48), np.float32)
  export.export_weights(weights, tmp_path / "out", "clip_vip")
  assert "the tokenizer of the run is missing" in caplog.text
  assert not load_model.tokenizer_name(sources.read_weights(str(tmp_path / "out")))


@pytest.mark.parametrize(("changes", "layout"), [({"temporal": "full"}, "clip_vip"), ({"added": 0, "time": 0}, "clip")])
def test_pt_file_of_a_run_embeds_as_the_run(tmp_path, changes, layout):
  weights = random_run(**changes)
  (path,) = export.export_weights(weights, tmp_path / "out.pth", layout)
  model = load_model.load(str(path))
  assert (model.config.model.temporal, model.config.data.num_frames) == (weights.config.temporal, 6)
  np.testing.assert_array_equal(embedded(model), embedded(load_model.from_weights(weights)))


@pytest.mark.parametrize(
  ("changes", "layout", "loss"),
  [
    ({"temporal": "full", "added": 0, "time": 0, "trained_tokenizer": "clip"}, "clip", "temporal='full',"),
    ({"added": 0, "time": 0, "trained_tokenizer": "gone.json"}, "clip", "temporal='proxies' and its own tokenizer"),
    ({"added": 0, "time": 0}, "openclip", "temporal='proxies' and its own tokenizer"),
    ({"added": 0, "time": 0, "temporal": "mean", "tokenizer": "words.json"}, "openclip", "its own tokenizer"),
    ({"added": 0, "time": 0, "temporal": "mean", "tokenizer": "words.json"}, "clip", "its own tokenizer"),
  ],
)
def test_layout_that_cannot_express_a_run_is_refused_by_convert(tmp_path, monkeypatch, changes, layout, loss):
  WordTokenizer.train(["a red square"], 100).save(tmp_path / "words.json")
  if "tokenizer" in changes:
    changes = {**changes, "tokenizer": str(tmp_path / "words.json")}
  monkeypatch.setattr(sources, "read_weights", lambda *_: random_run(**changes))
  arguments = ["a run", str(tmp_path / "out"), f"--layout={layout}"]
  with pytest.raises(UserError, match=f"layout '{layout}' cannot express {loss}.* use --layout=clip_vip or the"):
    convert.main(arguments)
  assert not (tmp_path / "out").exists()
  convert.main([*arguments, "--lossy"])
  assert (tmp_path / "out" / export.LAYOUTS[layout][0]).exists()
  convert.main(["a run", str(tmp_path / "default")])
  assert (tmp_path / "default" / export.LAYOUTS["clip_vip"][0]).exists()


@pytest.mark.parametrize(("vocab_size", "has_tokenizer"), [(49408, True), (100, False)])
def test_clip_tokenizer_is_written_on_request_and_read_back(tmp_path, vocab_size, has_tokenizer):
  weights = random_run(trained_tokenizer="clip")
  weights.config.text.vocab_size = vocab_size
  weights.params["text/token_embedding"] = np.ones((vocab_size, 48), np.float32)
  export.export_weights(weights, tmp_path / "plain", "clip_vip")
  for _ in range(2):
    export.export_weights(weights, tmp_path / "out", "clip_vip", overwrite=True, clip_tokenizer=True)
  assert not (tmp_path / "plain" / "tokenizer.json").exists()
  assert (tmp_path / "out" / "tokenizer.json").exists() == has_tokenizer
  if has_tokenizer:
    assert export.losses(sources.read_weights(str(tmp_path / "out")), "clip") == ["temporal='proxies'"]
