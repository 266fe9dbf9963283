"""What a checkpoint was trained with decides, whatever the files beside it say."""

import json

import pytest
from small_runs import config, write_identity

from clipvip_jax.input_pipeline.word_tokenizer import WordTokenizer
from clipvip_jax.runs import checkpoint_identity, workdir
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError


def identity(texts=("a cat", "a dog"), **changes):
  corpus = {"name": "a/1.0", "content": {"annotations": "1"}, "tokenizer": WordTokenizer.train(texts, 16).digest}
  return {"config": config_tree.to_json_dict(config("corpora", **changes)), "corpus": corpus}


@pytest.fixture
def run(tmp_path):
  """Workdir of a run with the checkpoint of step 4."""
  workdir.claim(tmp_path, **identity())
  WordTokenizer.train(["a cat", "a dog"], 16).save(tmp_path / "tokenizer.json")
  write_identity(tmp_path, 4, identity())
  return tmp_path


def edit(path, *keys, value):
  tree = json.loads(path.read_text())
  leaf = tree
  for key in keys[:-1]:
    leaf = leaf[key]
  leaf[keys[-1]] = value
  path.write_text(json.dumps(tree))


def test_a_run_resumes_with_what_its_checkpoints_were_trained_with(run, tmp_path_factory):
  checkpoint_identity.check_checkpoints(run, identity())
  changes = {"host.num_workers": 3, "data.data_dir": "b", "train.num_steps": 99}
  checkpoint_identity.check_checkpoints(run, identity(**changes))
  checkpoint_identity.check_checkpoints(tmp_path_factory.mktemp("new"), identity(seed=5))


@pytest.mark.parametrize(
  ("name", "change", "reason"),
  [
    ("config", {"optimizer.learning_rate": 0.5}, r"optimizer\.learning_rate: 0\.002 there, 0\.5 now"),
    ("config", {"seed": 3}, "seed: 0 there, 3 now"),
    ("corpus", {"texts": ["a dog", "a dog"]}, r"tokenizer: '\w+' there, '\w+' now"),
  ],
)
def test_other_values_are_refused_even_if_the_files_agree_with_them(run, name, change, reason):
  current = identity(**change)
  workdir.claim(run, **current)  # edited by hand
  with pytest.raises(UserError, match=rf"checkpoints/4 was trained with another {name} \({reason}\); .*{name}\.json"):
    checkpoint_identity.check_checkpoints(run, current)


def test_each_checkpoint_is_compared_and_the_corrupt_are_left_to_the_restore(run):
  write_identity(run, 8, identity(seed=8))
  with pytest.raises(UserError, match=r"checkpoints/8 .*seed: 8 there, 0 now"):
    checkpoint_identity.check_checkpoints(run, identity())
  edit(run / "checkpoints/8/identity/metadata", "config", "seed", value=9)
  checkpoint_identity.check_checkpoints(run, identity())
  (run / "checkpoints/4/digests.json").unlink()
  (run / "checkpoints/12").mkdir()  # of an earlier version
  assert checkpoint_identity.read_identities(run) == {}
  with pytest.raises(ValueError, match=r"digests\.json is missing"):
    checkpoint_identity.read_identity(run / "checkpoints/4")
  write_identity(run, 16, [])
  with pytest.raises(ValueError, match="identity/metadata is not the identity of a run"):
    checkpoint_identity.read_identity(run / "checkpoints/16")


def test_unchanged_files_pass_with_the_digest_of_the_vocabulary(run):
  assert checkpoint_identity.check_files(run, 4) == identity()["corpus"]["tokenizer"]
  edit(run / "config.json", "host", "num_workers", value=7)
  edit(run / "config.json", "train", "num_steps", value=99)
  checkpoint_identity.check_files(run, 4)
  (run / "checkpoints/8").mkdir()
  assert checkpoint_identity.check_files(run, 8) == "", "of an earlier version"


@pytest.mark.parametrize(
  ("keys", "value", "reason"),
  [
    (("model", "temporal"), "mean", r"model\.temporal: 'proxies' there, 'mean' now"),
    (("data", "num_frames"), 99, r"data\.num_frames: \d there, 99 now"),
    (("model", "more"), 1, r"model\.more: absent there, 1 now"),
  ],
)
def test_a_changed_config_is_refused_by_field(run, keys, value, reason):
  edit(run / "config.json", *keys, value=value)
  with pytest.raises(
    UserError, match=rf"config\.json was changed since .* step 4 .*\({reason}\); restore it: .*metadata"
  ):
    checkpoint_identity.check_files(run, 4)


def test_a_changed_corpus_is_refused_and_a_missing_one_is_not_needed(run):
  for content, reason in (
    ('{"name": "b/1.0"}', r"name: 'a/1\.0' there, 'b/1\.0' now"),
    ("{}", "name: 'a/1.0' there, absent now"),
    ("[1", "cannot be read"),
    ("7", "cannot be read"),
  ):
    (run / "corpus.json").write_text(content)
    with pytest.raises(UserError, match=rf"corpus\.json .*{reason}.*restore it: .*metadata"):
      checkpoint_identity.check_files(run, 4)
  (run / "corpus.json").unlink()
  checkpoint_identity.check_files(run, 4)


def test_another_vocabulary_is_refused(run):
  path = run / "tokenizer.json"
  WordTokenizer.train(["a dog", "a dog"], 16).save(path)
  with pytest.raises(UserError, match=r"tokenizer\.json' was changed since the weights were trained .*restore it"):
    checkpoint_identity.check_files(run, 4)
  path.unlink()
  assert checkpoint_identity.check_files(run, 4), "whoever needs texts compares the digest"
  with pytest.raises(UserError, match="the tokenizer 'clip' was changed since"):
    checkpoint_identity.load_recorded_tokenizer("clip", checkpoint_identity.check_files(run, 4))
