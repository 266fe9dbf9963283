"""Whole runs on a small corpus: results, resumption, and what stops a run."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import clipvip_jax
from clipvip_jax import checkpoint, convert, embed, lock, main, parts, sharding, train, train_loop, workdir
from clipvip_jax.checkpoint import Checkpoints
from clipvip_jax.errors import UserError
from clipvip_jax.evaluator import Evaluator
from clipvip_jax.input_pipeline import clips
from configs import mixed, post_pretrain
from data.moving_shapes.moving_shapes_dataset_builder import Builder

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  """A folder with moving_shapes/smoke; built by the first run that asks for it."""
  return tmp_path_factory.mktemp("corpora")


def config(corpus, variant="smoke", **changes):
  value = post_pretrain.get_config(variant)
  with value.unlocked():
    value.update_from_flattened_dict({"data.data_dir": str(corpus), **changes})
  return value


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
  """A run of the smoke recipe."""
  folder = tmp_path_factory.mktemp("runs") / "finished"
  return folder, train.run(config(corpus), folder)


def test_a_run_writes_results_that_say_what_made_them(finished):
  folder, results = finished
  assert json.loads((folder / "results.json").read_text()) == results
  assert set(results["splits"]) == {"test", "test_unseen"}
  test = results["splits"]["test"]
  assert test["size"] == test["expected"] == test["queries"] == test["twins"]["count"] == 32
  assert test["missing"] == 0
  assert 0 <= test["missing_captions"] < 8
  for protocol in ("plain", "dsl"):
    for direction in ("text_to_video", "video_to_text"):
      assert set(test[protocol][direction]) == {"R@1", "R@5", "R@10", "median_rank", "mean_rank"}
  assert results["step"] == 12 and results["best_step"] in (6, 12)
  assert results["config"]["optimizer"]["learning_rate"] == 2e-3
  assert results["versions"]["jax"] == jax.__version__
  assert results["corpus"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "JPEG" in results["corpus"]["pixels"]


def test_a_run_can_be_looked_at(finished):
  folder, _ = finished
  page = (folder / "report.html").read_text()
  assert page.count("data:image/jpeg") >= 4 * 5
  assert list(folder.glob("events.out.tfevents.*"))
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if row["kind"] == "train"] == [3, 6, 9, 12]
  assert [row["step"] for row in rows if row["kind"] == "eval"] == [6, 12]


def test_the_best_checkpoint_is_the_one_of_the_results(finished):
  folder, results = finished
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  scores = {row["step"]: row["metrics"]["plain"]["text_to_video"]["R@1"] for row in rows if row["kind"] == "eval"}
  best = max(scores, key=lambda step: (scores[step], step))
  assert results["best_step"] == best == Checkpoints(folder / "checkpoints", 3).best_step()


def test_a_finished_run_run_again_trains_no_more_and_gives_the_same(finished, corpus):
  folder, results = finished
  before = (folder / "metrics.jsonl").read_bytes()
  assert train.run(config(corpus), folder) == results
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_run_embeds_through_every_door_what_its_evaluation_embeds(finished, corpus, tmp_path):
  folder, results = finished
  parts_ = parts.prepare(config(corpus), folder)
  params, step = checkpoint.read_params(folder / "checkpoints")
  assert step == results["best_step"]
  evaluator = Evaluator(parts_.model, sharding.make_mesh(), parts_.corpus, parts_.tokenizer, config(corpus))
  videos, queries = evaluator.features(params, "test")

  model = clipvip_jax.load(folder)
  records = [parts_.corpus.source("test")[i] for i in range(len(videos))]
  for number, record in enumerate(records):
    clip = tmp_path / "frames" / f"{number:03d}"
    clip.mkdir(parents=True)
    for place, jpeg in enumerate(record["frames"]):
      (clip / f"{place}.jpg").write_bytes(jpeg)
  paths = clips.list_videos(tmp_path / "frames")
  np.testing.assert_allclose(model.embed_videos(paths), videos, atol=1e-6)
  found = embed.embed_files(model, paths, tmp_path / "index.npz")
  np.testing.assert_allclose(found.features, videos, atol=1e-6)
  texts = parts_.corpus.texts("test").queries
  np.testing.assert_allclose(model.embed_texts(texts), queries, atol=1e-6)


def test_a_run_is_a_source_by_step_for_conversion_and_for_another_run(finished, corpus, tmp_path):
  folder, results = finished
  best, first = clipvip_jax.load(folder), clipvip_jax.load(f"{folder}@6")
  assert (best.identity == first.identity) == (results["best_step"] == 6)
  with pytest.raises(UserError, match=r"no checkpoint of step 5; there are: .*12"):
    clipvip_jax.load(f"{folder}@5")
  convert.main([str(folder), str(tmp_path / "run.safetensors")])
  with pytest.raises(UserError, match=r"is a run of ours with 2, not 4"):
    convert.main([str(folder), str(tmp_path / "other.safetensors"), "--vision_heads=4"])
  options = {"vision_heads": 2, "text_heads": 2, "tokenizer": str(folder / "tokenizer.json")}
  again = clipvip_jax.load(tmp_path / "run.safetensors", **options)
  clip = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
  np.testing.assert_array_equal(again.embed_videos([clip]), best.embed_videos([clip]))
  changes = {"init_from": str(folder), "train.num_steps": 1, "optimizer.learning_rate": 0.0}
  train.run(config(corpus, **changes), tmp_path / "second")
  second, _ = checkpoint.read_params(tmp_path / "second" / "checkpoints")
  expected, _ = checkpoint.read_params(folder / "checkpoints")
  # A schedule's zero is 1e-8, so that no update is lost.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), second, expected)


def test_batch_size_of_the_evaluation_and_worker_processes_change_no_number(finished, corpus, tmp_path):
  """32 clips in batches of 24: the last one is padded."""
  changes = {"evaluate.batch_size": 24, "host.num_workers": 2}
  folder, results = finished
  again = train.run(config(corpus, **changes), tmp_path / "run")
  assert again["splits"] == results["splits"]
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_run_on_part_of_a_corpus_with_half_the_patches_and_a_frozen_tower_evaluated_elsewhere(
  finished, corpus, tmp_path
):
  changes = {"init_from": str(finished[0]), "data.share": 0.5, "train.num_steps": 3, "evaluate.name": "moving_shapes"}
  changes |= {"evaluate.config": "smoke", "evaluate.final_splits": ("validation",)}
  results = train.run(config(corpus, "smoke,patch_dropout,frozen_text,remat", **changes), tmp_path / "run")
  assert set(results["splits"]) == {"validation"}
  assert results["evaluated"]["name"] == f"moving_shapes/smoke/{Builder.VERSION}"
  assert "evaluated" in json.loads((tmp_path / "run" / "corpus.json").read_text())
  after, before = (checkpoint.read_params(folder / "checkpoints")[0] for folder in (tmp_path / "run", finished[0]))
  jax.tree.map(np.testing.assert_array_equal, after["text"], before["text"])
  assert np.any(after["vision"]["added_proxies"] != before["vision"]["added_proxies"])
  clipvip_jax.load(tmp_path / "run")  # which the options of training do not hinder


def test_another_config_in_the_same_folder_is_refused_and_changes_nothing(finished, corpus):
  folder, _ = finished
  before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
  with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
    train.run(config(corpus, seed=1), folder)
  assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_records(corpus, tmp_path):
  # The first update of the warm-up throws the parameters away, so the second loss is no number.
  bad = config(corpus, **{"optimizer.learning_rate": 1e38, "train.checkpoint_every": 1})
  with pytest.raises(UserError, match=r"step 2: loss nan.*step 1\. Records of the batch: train_\d+(, train_\d+){15}\."):
    train.run(bad, tmp_path / "run")
  assert Checkpoints(tmp_path / "run" / "checkpoints", 3).steps() == [1]


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
    ({"optimizer.rate_multipliers": {"visoin": 0.1}}, r"rate_multipliers.*'visoin'"),
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
    ({"data.share": 0.0}, r"data\.share=0\.0 must be above 0 and at most 1"),
    ({"train.whole_clips": 1.5}, r"train\.whole_clips=1\.5 must be at least 0"),
    ({"train.accumulate": 3}, r"train\.accumulate=3 does not divide the \d+ clips that a device has"),
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
  monkeypatch.setattr(train, "Checkpoints", lambda *_: pytest.fail("came as far as the first state"))
  with pytest.raises(UserError, match=message):
    train.run(config(corpus, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_the_last_steps_of_patch_dropout_see_whole_clips(monkeypatch):
  monkeypatch.setattr(train, "jitted_step", lambda *_, whole_clips: "whole" if whole_clips else "part")

  def whole_steps(**changes):
    options = post_pretrain.get_config("patch_dropout")
    options.update_from_flattened_dict(changes)
    parts_ = types.SimpleNamespace(config=options, model=None, loss=None, total_steps=200)
    step = train._step_of_its_time(parts_, None, None, None, None)
    return [done for done in range(200) if step(done) == "whole"]

  assert whole_steps() == list(range(180, 200))
  assert whole_steps(**{"train.whole_clips": 0.0}) == []
  assert whole_steps(**{"model.patch_dropout": 0.0}) == []  # where both would be the same


def mixed_config(corpus, **changes):
  value = mixed.get_config("smoke")
  with value.unlocked():
    value.update_from_flattened_dict({"data.data_dir": str(corpus), **changes})
  return value


def test_a_mix_of_sources_is_one_run_that_goes_on_where_it_stopped(corpus, tmp_path):
  whole = train.run(mixed_config(corpus), tmp_path / "whole")
  assert whole["step"] == 12
  identity = json.loads((tmp_path / "whole" / "corpus.json").read_text())
  assert identity["mix"].keys() == {"video_text", "image_text"}
  # Half of the steps, and then the others: a new run with the first's checkpoint.
  folder = tmp_path / "broken"
  shutil.copytree(tmp_path / "whole", folder)
  for step in (folder / "checkpoints").iterdir():
    if step.name.isdigit() and int(step.name) > 6:
      shutil.rmtree(step)
  again = train.run(mixed_config(corpus, **{"host.num_workers": 2}), folder)
  assert again["splits"] == whole["splits"]
  assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
  other = mixed_config(corpus)
  other.mix.image_text.train_split = "validation"
  with pytest.raises(UserError, match=r"mix\.image_text\.train_split: 'train' there, 'validation' now"):
    train.run(other, folder)


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
    parts.prepare(bad, tmp_path / "run")


def test_a_full_disk_stops_the_run_with_a_checkpoint_that_can_be_read(finished, corpus, tmp_path):
  """A limit on the size of files refuses writes as a full disk does: of arrays, which are larger, from step 8 on."""
  folder = tmp_path / "run"
  full = [
    "import resource, signal",
    "from clipvip_jax import main, train_loop, command",
    "save = train_loop.Checkpoints.save",
    "def fill(self, state, *rest):",
    "  self._manager.wait_until_finished()",  # the checkpoint before is written in the background
    "  if int(state.step) == 8: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))",
    "  save(self, state, *rest)",
    "train_loop.Checkpoints.save = fill",
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    "command.run(lambda: main.app.run(main.main, flags_parser=main.parse_flags))",
  ]
  arguments = command(corpus, folder)
  arguments[1:3] = ["-c", "\n".join(full)]
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2, done.stderr
  (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
  assert line.startswith(f"error: {folder} cannot be written (File too large); stopped, the newest checkpoint is")
  assert "is that of step 4. Make room" in line
  assert checkpoint.read_params(folder / "checkpoints")[1] == 4


def test_metrics_that_cannot_be_written_stop_the_run_with_words(finished, corpus, tmp_path, monkeypatch):
  real = workdir.History.append

  def full(history, row):
    if row["step"] >= 6:
      history._file = open("/dev/full", "a")  # noqa: SIM115, PTH123
    real(history, row)

  monkeypatch.setattr(workdir.History, "append", full)
  with pytest.raises(
    UserError, match=r"run cannot be written \(No space left on device\).* that of step 3\. Make room"
  ):
    train.run(config(corpus), tmp_path / "run")
  assert checkpoint.read_params(tmp_path / "run" / "checkpoints")[1] == 3


def test_two_runs_in_one_folder_are_refused(finished, corpus):
  folder, _ = finished
  with lock.held(folder), pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"):
    train.run(config(corpus), folder)


def test_records_of_a_mix_are_named_where_the_loss_is_not_finite(corpus, finished, tmp_path):
  mix = mixed_config(corpus)
  mix.mix.video_text.train_split = "validation"
  loop = object.__new__(train_loop.Loop)
  loop._parts = parts.prepare(mix, tmp_path / "run")
  loop._checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
  names = [[parts_.clips.source[i]["id"].decode() for i in range(3)] for parts_ in loop._parts.sources]
  loop._unchecked = (7, {"loss": np.nan, "grad_norm": 0.0}, np.array([[2, 1], [2, 0], [2, -1]]))
  with pytest.raises(UserError, match=rf"step 7: loss nan.*no checkpoint.* batch: {names[2][1]}, {names[2][0]}\."):
    loop._check_finite()
  assert names[2][1].startswith("validation_") and names[1][1].startswith("train_")


# Below: processes of their own, as a user starts them.


def command(corpus, folder, *overrides):
  return [
    sys.executable,
    "-m",
    "clipvip_jax.main",
    "--config=configs/post_pretrain.py:smoke",
    f"--workdir={folder}",
    f"--config.data.data_dir={corpus}",
    "--config.train.num_steps=40",
    "--config.train.eval_every=20",
    "--config.train.checkpoint_every=4",
    "--config.host.log_every=1",
    *overrides,
  ]


def run_until(text, arguments):
  """Starts a run, and returns it once its output holds `text`."""
  process = subprocess.Popen(
    arguments,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
  )
  seen = []
  for line in process.stdout:
    seen.append(line)
    if text in line:
      return process, seen
  raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def finish(process):
  output = process.stdout.read()
  return process.wait(timeout=300), output


def final_state(folder):
  """Every array of the last checkpoint."""
  checkpoints = Checkpoints(folder / "checkpoints", 3)
  manager = checkpoints._manager
  restored = manager.restore(40, args=train_args())
  return jax.tree.leaves(restored["state"])


def train_args():
  import orbax.checkpoint as ocp

  return ocp.args.Composite(state=ocp.args.StandardRestore())


def test_terminated_and_killed_and_cut_the_run_ends_as_an_unbroken_one_bit_for_bit(finished, corpus, tmp_path):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  done = subprocess.run(command(corpus, unbroken), cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr

  process, _ = run_until("step 7/40", command(corpus, broken))
  process.send_signal(signal.SIGTERM)
  code, output = finish(process)
  assert code == main.TERMINATED and "SIGTERM: saved step" in output and "Traceback" not in output, output

  process, seen = run_until("step 22/40", command(corpus, broken))
  assert any("going on from the checkpoint of step" in line for line in seen)
  process.kill()
  finish(process)

  whole = [path for path in (broken / "checkpoints").iterdir() if path.name.isdigit()]
  newest = max(whole, key=lambda path: int(path.name))
  for file in newest.rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:10])
  done = subprocess.run(command(corpus, broken), cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert f"moved the damaged checkpoint of step {newest.name} to" in done.stdout, done.stdout
  assert "going on from the checkpoint of step" in done.stdout, done.stdout

  for name in ("results.json", "report.html", "metrics.jsonl", "tokenizer.json"):
    assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
  for a, b in zip(final_state(unbroken), final_state(broken), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


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
