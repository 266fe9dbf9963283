"""The model card: metadata as the Hub reads it, tables, and untrusted names without a meaning."""

import json
import re

import huggingface_hub
import published_run
import pytest
from project_paths import GOLDEN

from clipvip_jax.evaluation.retrieval import percent
from clipvip_jax.reporting import model_card
from clipvip_jax.reporting.model_card import CardFields
from clipvip_jax.runs.results import RunResults
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import sources

FIELDS = CardFields("someone/shapes", "hf://someone/shapes@v1", "other", "my-license", "https://example.org/license")
CONFIG = {
  "data": {"name": "shapes", "data_dir": "/home/alice/corpora", "tokenizer": "C:\\alice\\words.json"},
  "mix": {"web": {"data_dir": "gs://secret/corpora", "name": "webvid", "paths": ["/mnt/alice/x.json"]}},
  "host": {"tracker": "/home/alice/log"},
  "init_from": "hf://openai/clip-vit-base-patch32",
  "loss": "vs",
  "train": {"batch_size": 16},
}


@pytest.fixture(scope="module")
def weights():
  return sources.read_weights(str(GOLDEN / "vip_tiny.pt"))


def render(weights, tmp_path, layout="clip_vip", fields=FIELDS, **changes):
  results = RunResults(tmp_path, {**published_run.results(), "config": CONFIG, **changes}, [])
  return model_card.render_card(weights, layout, fields, results)


def test_metadata_is_a_model_index_of_the_plain_metrics(weights, tmp_path):
  card = huggingface_hub.ModelCard(render(weights, tmp_path))
  data = card.data
  assert (data.license, data.license_name, data.license_link) == ("other", "my-license", "https://example.org/license")
  assert (data.base_model, data.library_name, data.model_name) == (
    "openai/clip-vit-base-patch32",
    "clipvip_jax",
    "someone/shapes",
  )
  plain = published_run.results()["splits"]["test"]["plain"]
  expected = {}
  for direction, metrics in plain.items():
    task = f"{direction.replace('_', '-')}-retrieval"
    for name, value in metrics.items():
      is_recall = name.startswith("R@")
      kind = name.replace("R@", "recall_at_")
      expected[task, kind] = float(percent(value)) if is_recall else round(value, 1)
  assert len(expected) == 10
  assert {(result.task_type, result.metric_type): result.metric_value for result in data.eval_results} == expected
  assert {result.dataset_split for result in data.eval_results} == {"test"}
  assert re.fullmatch(r"[a-z0-9_.-]+", data.eval_results[0].dataset_type)


def test_tables_show_the_results_and_how_to_load(weights, tmp_path):
  card = render(weights, tmp_path)
  assert 'model = clipvip_jax.load("hf://someone/shapes@v1")' in card
  dsl = published_run.results()["splits"]["test"]["dsl"]["text_to_video"]
  cells = [percent(dsl[name]) for name in ("R@1", "R@5", "R@10")]
  assert f"| Text to video, dual softmax | {' | '.join(cells)} |" in card
  assert "16 clips. Twin accuracy 75.0% (chance 50%)." in card
  assert "| Corpora | `shapes \\| <b>'x'</b>\\n---/smoke/1.0.0`, `webvid/2m/1.0.0` |" in card
  assert "| Step of these weights | `6, the best by plain text-to-video R@1 on validation` |" in card


def test_untrusted_names_have_no_meaning_in_markdown(weights, tmp_path):
  evil = "x`<script>|\n---\n# [a](http://b)\u202e"
  splits = {evil: published_run.results()["splits"]["test"]}
  corpora = {
    "corpus": {"name": evil, "mix": {}},
    "evaluated": {"name": evil},
    "best_by": evil,
    "versions": {evil: evil},
  }
  card = render(weights, tmp_path, splits=splits, **corpora)
  body = huggingface_hub.ModelCard(card).text  # the metadata ends where it should
  assert "model = clipvip_jax.load" in body
  text = re.sub(r"`[^`\n]*`", "", body)  # without spans of code
  assert "script" not in text and "](http://b" not in text and "\u202e" not in card
  assert not re.search(r"^(# \[|---)", body, re.MULTILINE)
  assert all(line.count(" | ") == 1 for line in body.splitlines() if line.startswith("| Corpora"))


def test_card_has_no_paths_of_a_machine_and_equal_bytes(weights, tmp_path):
  card = render(weights, tmp_path)
  assert card == render(weights, tmp_path)
  assert not any(text in card for text in ("alice", "secret", "/mnt", str(tmp_path), "tracker"))
  config = json.loads(re.search(r"```json\n(.*?)\n```", card, re.DOTALL)[1])
  assert config == {
    "data.name": "shapes",
    "data.tokenizer": "words.json",
    "mix.web.name": "webvid",
    "mix.web.paths": ["x.json"],
    "init_from": "hf://openai/clip-vit-base-patch32",
    "loss": "vs",
    "train.batch_size": 16,
  }


def test_local_initial_weights_are_no_base_model(weights, tmp_path):
  card = render(weights, tmp_path, initial_weights={"source": "/home/alice/start.pt", "sha256": ""})
  assert "| Initial weights | `start.pt` |" in card and "base_model" not in card and "alice" not in card


def test_layout_that_cannot_express_the_weights_is_said(weights, tmp_path):
  assert "cannot express" not in render(weights, tmp_path)
  assert "It cannot express `temporal='proxies'`: other programs" in render(weights, tmp_path, "openclip")


def test_card_without_results_has_neither_metrics_nor_training(weights):
  card = model_card.render_card(weights, "clip", CardFields("a/b", "hf://a/b", "mit"), None)
  assert "model-index" not in card and "## Results" not in card and "## Training" not in card
  assert huggingface_hub.ModelCard(card).data.library_name == "transformers"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ((None,), "--license is missing; allowed: identifiers of https://huggingface.co/docs"),
    (("My License\n",), r"--license=My License\\n is not a license; allowed"),
    (("other",), "--license=other needs --license_name"),
    (("mit", "x"), "no other license has one; give both or neither"),
    (("other", "x y"), "--license_name has other characters"),
    (("other", "x", "ftp://x"), "--license_link must be an address https://"),
    (("mit", None, "https://x"), "belongs to --license=other"),
  ],
)
def test_invalid_license_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    CardFields("a/b", "hf://a/b", *fields)
