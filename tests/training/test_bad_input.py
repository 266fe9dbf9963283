"""What is refused before a run starts, in one line."""

import os
import subprocess
import sys

import pytest
from project_paths import ROOT
from small_runs import config, mixed_config

from clipvip_jax.runs import workdir_lock
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils.errors import UserError


def test_another_config_in_the_same_folder_is_refused_and_changes_nothing(finished, corpus):
  folder, _ = finished
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
  with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
    trainer.train(config(corpus, seed=1), folder)
  assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"loss": "vsc_cf"}, r"loss='vsc_cf'.*vsc_fc"),
    ({"train.batch_size": 12}, r"train\.batch_size=12.*8 devices.*8 and 16"),
    ({"evaluate.batch_size": 4}, r"evaluate\.batch_size=4"),
    ({"optimizer.schedule": "cosin"}, "cosine"),
    ({"model.patch_size": 7}, "patch_size"),
    ({"data.text_length": 40}, r"data\.text_length=40.*positions=28"),
    ({"data.text_length": 1}, r"data\.text_length=1 must be at least 2"),
    ({"seed": -1}, r"seed=-1"),
    ({"evaluate.num_examples": -1}, r"evaluate\.num_examples=-1"),
    ({"optimizer.clip_norm": 0.0}, r"optimizer\.clip_norm=0\.0.*above 0"),
    ({"optimizer.b1": 0.0}, r"optimizer\.b1=0\.0"),
    ({"optimizer.lr_multipliers": {"visoin": 0.1}}, r"lr_multipliers.*'visoin'"),
    ({"model.vision.heads": 0}, r"model\.vision\.heads=0"),
    ({"model.vision.added_proxies": -1}, r"added_proxies=-1 must be at least 0"),
    ({"model.vision.width": 34, "model.vision.heads": 1}, r"model\.vision\.width=34.*multiple of 4"),
    ({"data.num_frames": 0}, r"data\.num_frames=0"),
    ({"train.eval_every": 0}, r"train\.eval_every=0"),
    ({"host.num_workers": -1}, r"host\.num_workers=-1"),
    ({"init_from": "nowhere.safetensors"}, r"nowhere\.safetensors.*no such file"),
    ({"init_from": str(ROOT / "tests/golden/vip_tiny.safetensors")}, r"does not fit config\.model: .*the model's is"),
    ({"data.name": "moving_shape"}, r"moving_shape.*there are: .*moving_shapes"),
    ({"data.config": "huge"}, r"huge.*allowed: demo, smoke"),
    ({"data.prepare": False, "data.data_dir": "nowhere"}, r"is not in nowhere.*--config\.data\.prepare=True"),
    ({"data.train_split": "tran"}, r"tran.*train, validation"),
    ({"evaluate.final_splits": ("tets",)}, r"tets"),
    ({"evaluate.query": "descripton"}, r"descripton.*description"),
    ({"data.subtitle": "speech"}, r"speech.*subtitle"),
    ({"data.fraction": 0.0}, r"data\.fraction=0\.0 must be above 0 and at most 1"),
    ({"train.unmasked_fraction": 1.5}, r"train\.unmasked_fraction=1\.5 must be at least 0"),
    ({"train.num_microbatches": 3}, r"train\.num_microbatches=3 does not divide the \d+ clips that a device has"),
    ({"mesh.fsdp": 3}, r"mesh\.data=-1, mesh\.fsdp=3, mesh\.tensor=1 does not fit 8 devices"),
    ({"mesh.tensor": 8}, r"mesh\.tensor=8 does not divide model\.vision\.heads="),
    ({"model.patch_dropout": 1.0}, r"model\.patch_dropout=1\.0 must be at least 0 and below 1"),
    ({"optimizer.frozen": ("txet/",)}, r"optimizer\.frozen: no parameter's name begins with 'txet/'"),
    ({"model.temporal": "sequence", "model.sequence_layers": 0}, r"sequence_layers=0 must be at least 1"),
    (
      {"model.temporal": "sequence", "data.num_frames": 40},
      r"data\.num_frames=40 is more than model\.text\.positions=28",
    ),
    ({"evaluate.name": "moving_shape"}, r"evaluate\.name='moving_shape' is no corpus"),
    ({"data.weight": 0.0}, r"data\.weight=0\.0 must be a number above 0"),
    (
      {"data.subtitle": "", "data.caption": ""},
      r"data has no text that loss='vsc_fc' reads.*data\.caption or data\.sub",
    ),
    ({"data.subtitle": "", "loss": "vs"}, r"data has no text that loss='vs' reads: .* in data\.subtitle"),
    ({"data.tokenizer": "clip"}, r"49408 tokens.*vocab_size is 512"),
    ({"data.tokenizer": "none.json"}, r"none\.json"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_is_refused_before_anything_is_compiled(corpus, finished, tmp_path, changes, message, monkeypatch):
  monkeypatch.setattr(trainer, "Checkpoints", lambda *_: pytest.fail("came as far as the first state"))
  with pytest.raises(UserError, match=message):
    trainer.train(config(corpus, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"name": "image"}, r"mix\.image_text\.name='image' is no corpus.*moving_shapes"),
    ({"config": "none"}, r"mix\.image_text\.config='none' of corpus moving_shapes is not in .*; there: smoke; known"),
    ({"weight": 0.0}, r"mix\.image_text\.weight=0\.0"),
    ({"weight": float("nan")}, r"mix\.image_text\.weight=nan"),
    ({"caption": ""}, r"mix\.image_text has no text.*mix\.image_text\.caption or mix\.image_text\.subtitle"),
    ({"caption": "captoin"}, r"mix\.image_text: .*'captoin'; they have: .*caption"),
    ({"train_split": "tran"}, r"mix\.image_text: .*'tran'"),
    ({"num_frames": 0}, r"mix\.image_text\.num_frames=0"),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_source_that_cannot_be_used_is_refused_by_its_path(corpus, finished, tmp_path, changes, message):
  bad = mixed_config(corpus)
  bad.mix.image_text.update(changes)
  with pytest.raises(UserError, match=message):
    setup.prepare(bad, tmp_path / "run")


def test_two_runs_in_one_folder_are_refused(finished, corpus):
  folder, _ = finished
  with workdir_lock.workdir_lock(folder), pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"):
    trainer.train(config(corpus), folder)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=configs/post_pretrain.py:smok"], r"unknown variant 'smok'; this recipe has: b32, b16"),
    (
      ["--config=configs/post_pretrane.py"],
      "'configs/post_pretrane.py'; there are: configs/activitynet.py, configs/data_scale.py, configs/",
    ),
    (
      ["--config=configs/post_pretrain.py", "--config.optimizer.lr=1"],
      "--config.optimizer.lr: config.optimizer has no field 'lr'; it has: b1, b2, clip_norm",
    ),
    (
      ["--config=configs/post_pretrain.py", "--config.seed.x=1"],
      "--config.seed.x: config.seed is a value and has no fields",
    ),
    (["--config=configs/post_pretrain.py", "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run"),
    (["--config=configs/post_pretrain.py", "--workdir=build/never", "--process_id=1"], "--coordinator=HOST:PORT"),
    (["--config=configs/post_pretrain.py", "--config.train.batch_size=many"], "many"),
    (["--config=configs/post_pretrain.py", "--wrokdir=x"], "workdir"),
    (["--config=configs/post_pretrain.py", "stray"], "stray"),
    (["--config=configs/post_pretrain.py"], "--workdir is missing"),
    ([], "--config is missing"),
    (["--config=BROKEN", "--workdir=build/never"], "nonsense"),
    (["--config=configs/post_pretrain.py:smoke", "--workdir=/proc/never", "CORPUS"], "--workdir=/proc/never cannot be"),
    (["--config=configs/post_pretrain.py", "--workdir=build/never"], "clip-vit-base-patch32"),
    (["--config=configs/post_pretrain.py:demo", "--workdir=README.md"], "is a file"),
  ],
  ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_wrong_command_ends_with_one_plain_line(arguments, message, finished, corpus, tmp_path):
  broken = tmp_path / "broken.py"
  broken.write_text("def get_config(arg=None):\n  return nonsense\n")
  filled = {"CORPUS": f"--config.data.data_dir={corpus}", "--config=BROKEN": f"--config={broken}"}
  arguments = [filled.get(argument, argument) for argument in arguments]
  done = subprocess.run(
    [sys.executable, "-m", "clipvip_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 2, done.stderr
  assert "Traceback" not in done.stderr, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ") and message in line
  assert not (ROOT / "build" / "never").exists()
