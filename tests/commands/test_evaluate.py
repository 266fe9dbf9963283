"""The command evaluate, end to end: a plain CLIP, runs of training, kept embeddings, and wrong options."""

import json
import shutil
import statistics
import subprocess
import sys

import miniature
import pytest
from project_paths import ROOT

from clipvip_jax import evaluate
from clipvip_jax.configs import post_pretrain
from clipvip_jax.evaluation import published_results, run, split_embeddings, targets
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils import file_digests
from clipvip_jax.utils.errors import UserError

CLIP_OPTIONS = ("--split=train", "--num_frames=2", "--batch_size=16", "--dtype=float32")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  return miniature.write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return miniature.write_clip(tmp_path_factory.mktemp("clip"))


def command(corpora, workdir, models, *options, dataset="msrvtt/9k"):
  """Runs the command; returns what results.json holds."""
  arguments = [f"--dataset={dataset}", f"--data_dir={corpora}", f"--workdir={workdir}", "--num_workers=0"]
  evaluate.main([*arguments, *(f"--model={model}" for model in models), *options])
  return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def of_clip(corpora, clip, tmp_path_factory):
  """(workdir, results) of a plain CLIP."""
  folder = tmp_path_factory.mktemp("of_clip")
  return folder, command(corpora, folder, [clip], *CLIP_OPTIONS)


@pytest.mark.slow
def test_writes_report_and_prints_the_table(corpora, clip, of_clip, tmp_path, capsys, monkeypatch):
  rows = published_results.published_rows("msrvtt/9k/1.0.0", "test")
  monkeypatch.setattr(run.published_results, "published_rows", lambda corpus, split: rows)
  results = command(corpora, tmp_path, [clip], *CLIP_OPTIONS)
  printed = capsys.readouterr().out
  assert {**results, "published": {}} == of_clip[1] and results["published"] == {"train": rows}
  assert "train: 19 of 21 clips, 2 missing; 19 queries" in printed
  assert "2 of 19 queries are not unique" in printed
  assert "published on MSR-VTT 1k-A, 1,000 clips:" in printed
  (published,) = (line for line in printed.splitlines() if line.startswith("B/16 fine-tuned, dual softmax"))
  assert published.split()[4:7] == ["57.7", "80.5", "88.2"]
  plain = results["splits"]["train"]["plain"]["text_to_video"]
  (row,) = (line for line in printed.splitlines() if line.startswith("Text to video  "))
  expected = [*(f"{100 * plain[f'R@{k}']:.1f}" for k in (1, 5, 10)), f"{plain['median_rank']:.1f}"]
  assert row.split()[3:7] == expected
  assert "{:.1f} to {:.1f}".format(*(100 * bound for bound in plain["R@1_interval"])) in row
  for name in ("Video to text", "Text to video, dual softmax", "Video to text, dual softmax"):
    assert f"\n{name}  " in printed
  assert (tmp_path / "report.html").read_text().count("data:image/jpeg") > 10


def test_evaluation_is_idempotent(corpora, clip, of_clip, tmp_path):
  for _ in range(2):
    assert command(corpora, tmp_path, [clip], *CLIP_OPTIONS) == of_clip[1]
    name = split_embeddings.file_name("train")
    assert (tmp_path / name).read_bytes() == (of_clip[0] / name).read_bytes()


def test_kept_embeddings_give_identical_results_without_model_and_corpus(of_clip, tmp_path, monkeypatch):
  folder, _ = of_clip
  for name in ("open_corpus", "sources", "load_model"):
    monkeypatch.delattr(targets, name)
  for number, kept in enumerate((folder, folder / split_embeddings.file_name("train"))):
    evaluate.main([f"--embeddings={kept}", f"--workdir={tmp_path / str(number)}"])
    assert (tmp_path / str(number) / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    assert (tmp_path / str(number) / "report.html").exists()


def test_embeddings_in_a_bucket_are_measured_into_the_bucket(bucket, of_clip, monkeypatch):
  folder = of_clip[0]
  kept = bucket.upload(folder, "kept")
  monkeypatch.delattr(targets, "open_corpus")
  for number, source in enumerate((kept, f"{kept}/{split_embeddings.file_name('train')}")):
    evaluate.main([f"--embeddings={source}", f"--workdir={bucket / str(number)}"])
    assert bucket.read(f"{number}/results.json") == (folder / "results.json").read_bytes()
    assert {"evaluation.json", "report.html"} < {name[2:] for name in bucket.sizes() if name.startswith(f"{number}/")}
  page = bucket.read("kept/report.html")
  evaluate.main([f"--embeddings={kept}", f"--workdir={kept}"])
  assert bucket.read("kept/report.html") == page, "it has frames of the videos"
  run = bucket.upload(folder, "run")
  bucket.write("run/config.json", b"{}")
  with pytest.raises(UserError, match=rf"--workdir={run} holds a run; name another folder"):
    evaluate.main([f"--embeddings={kept}", f"--workdir={run}"])


def test_report_with_frames_is_kept_when_embeddings_are_measured_in_place(corpora, clip, tmp_path):
  command(corpora, tmp_path, [clip], *CLIP_OPTIONS)
  page = (tmp_path / "report.html").read_bytes()
  evaluate.main([f"--embeddings={tmp_path}", f"--workdir={tmp_path}"])
  assert (tmp_path / "report.html").read_bytes() == page


def test_several_queries_per_clip_need_the_multi_protocol(corpora, clip, tmp_path):
  with pytest.raises(UserError, match=r"9 of 19 clips have several queries, first 'clip1' with 2; --protocol=multi"):
    command(corpora, tmp_path / "single", [clip], *CLIP_OPTIONS, "--protocol=single", dataset="msrvtt/full")
  assert not (tmp_path / "single").exists()
  results = command(corpora, tmp_path / "multi", [clip], *CLIP_OPTIONS, dataset="msrvtt/full")  # as the recipe has it
  split = results["splits"]["train"]
  assert (split["size"], split["queries"]) == (miniature.COUNT, miniature.COUNT + 9)
  assert all("video_to_text_grouped" in split[kind] for kind in ("plain", "dsl"))
  kept = [f"--embeddings={tmp_path / 'multi'}", f"--workdir={tmp_path / 'kept'}"]
  evaluate.main(kept)
  with pytest.raises(UserError, match=r"several queries.*--protocol=multi"):
    evaluate.main([*kept, "--protocol=single"])


def training_config(corpora, **changes):
  """The smoke recipe on the miniature."""
  config = post_pretrain.get_config("smoke")
  with config.unlocked():
    config.data.update({"name": "msrvtt", "config": "9k", "prepare": False, "data_dir": str(corpora)})
    config.evaluate.update({"selection_split": "train", "final_splits": ("train",), "num_examples": 3})
    config.update_from_flattened_dict(changes)
  return config.lock()


def test_training_names_its_own_field_for_the_multi_protocol(corpora, tmp_path):
  with pytest.raises(UserError, match=r"first 'clip1' with 2; --config\.evaluate\.protocol=multi"):
    setup.prepare(training_config(corpora, **{"data.config": "full"}), tmp_path)
  setup.prepare(training_config(corpora, **{"data.config": "full", "evaluate.protocol": "multi"}), tmp_path)


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
  """(workdir, results) of a run."""
  folder = tmp_path_factory.mktemp("runs") / "0"
  return folder, trainer.train(training_config(corpora), folder)


def edit_config(folder, *replacements):
  """Edits the configuration of a run, as if an earlier version had written it, which compared nothing."""
  path = folder / "config.json"
  text = path.read_text()
  for old, new in replacements:
    assert old in text
    text = text.replace(old, new)
  path.write_text(text)
  for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
    shutil.rmtree(checkpoint / "identity", ignore_errors=True)
    file_digests.write_digests(checkpoint)


@pytest.fixture(scope="module")
def runs(trained):
  """Workdirs of two runs: the second has another seed and the weights of an earlier step."""
  first, second = trained[0], trained[0].with_name("1")
  shutil.copytree(first, second)
  shutil.rmtree(second / "checkpoints" / str(trained[1]["best_step"]))
  edit_config(second, ('"seed": 0', '"seed": 1'))
  return first, second


@pytest.fixture(scope="module")
def measured(corpora, trained, tmp_path_factory):
  """(workdir, results) of evaluating the run on the corpus that it was trained on."""
  folder = tmp_path_factory.mktemp("measured")
  return folder, command(corpora, folder, [trained[0]])


@pytest.mark.slow
@pytest.mark.unoptimized
def test_evaluating_a_run_gives_bit_identical_metrics(measured, trained):
  _, results = measured
  workdir, expected = trained
  splits = json.loads(json.dumps(results["splits"]))
  for direction in splits["train"]["plain"].values():
    low, high = direction.pop("R@1_interval")
    assert low <= direction["R@1"] <= high
  assert splits == expected["splits"]
  assert {**results["corpus"], "mix": {}} == expected["corpus"] and results["num_params"] == expected["num_params"]
  assert results["model"]["source"] == str(workdir) and len(results["model"]["identity"]) == 32
  assert results["preprocessing"]["frames"].startswith("6 of each clip, evenly spread")
  assert results["preprocessing"]["dtype"] == "float32"


@pytest.mark.slow
@pytest.mark.unoptimized
def test_runs_of_several_seeds_give_mean_and_standard_deviation(corpora, runs, tmp_path, capsys):
  results = command(corpora, tmp_path / "a", runs)
  printed = capsys.readouterr().out
  each = [json.loads((tmp_path / "a" / f"model_{i}" / "results.json").read_text()) for i in (0, 1)]
  ranks = [one["splits"]["train"]["plain"]["text_to_video"]["mean_rank"] for one in each]
  assert f"{statistics.mean(ranks):.1f} ± {statistics.stdev(ranks):.1f}" in printed
  assert [model["source"] for model in results["models"]] == [str(workdir) for workdir in runs]
  assert (tmp_path / "a/model_1/report.html").exists()
  evaluate.main([f"--embeddings={tmp_path / 'a'}", f"--workdir={tmp_path / 'b'}"])
  assert (tmp_path / "b" / "results.json").read_bytes() == (tmp_path / "a" / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.unoptimized
def test_models_that_are_not_runs_of_one_experiment_are_refused(corpora, runs, clip, tmp_path):
  with pytest.raises(UserError, match=r"model\.vision\.width 32 and 64"):
    command(corpora, tmp_path / "out", [runs[0], clip], *CLIP_OPTIONS)
  shutil.copytree(runs[1], tmp_path / "run")
  edit_config(tmp_path / "run", ('"learning_rate": 0.002', '"learning_rate": 0.5'))
  with pytest.raises(UserError, match=r"seed and folders only: optimizer\.learning_rate 0\.002 and 0\.5$"):
    command(corpora, tmp_path / "out", [runs[0], tmp_path / "run"])
  assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.unoptimized
def test_run_whose_configuration_does_not_fit_its_checkpoint_is_refused(corpora, runs, tmp_path):
  shutil.copytree(runs[0], tmp_path / "run")
  edit_config(tmp_path / "run", ('"image_size": 32', '"image_size": 64'))
  with pytest.raises(UserError, match=r"config\.model.*vision/position_embedding.*\(17, 32\).*; restore config"):
    command(corpora, tmp_path / "out", [tmp_path / "run"])


@pytest.mark.slow
@pytest.mark.unoptimized
def test_run_is_independent_of_the_attention_implementation_of_training(corpora, measured, trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / "run")
  edit_config(tmp_path / "run", ('"attention": "auto"', '"attention": "cudnn"'))
  results = command(corpora, tmp_path / "out", [tmp_path / "run"])
  assert results["model"]["identity"] == measured[1]["model"]["identity"]


@pytest.mark.slow
@pytest.mark.unoptimized
def test_workdirs_of_runs_and_evaluations_are_kept_apart(corpora, measured, runs):
  before = (measured[0] / "results.json").read_bytes()
  with pytest.raises(UserError, match=r"another evaluation \(.*data\.num_frames.*6.*3"):
    command(corpora, measured[0], [runs[0]], "--num_frames=3")
  with pytest.raises(UserError, match="holds a run; name another folder"):
    command(corpora, runs[0], [runs[0]])
  with pytest.raises(UserError, match=r"holds an evaluation, not a run; choose another"):
    trainer.train(training_config(corpora), measured[0])
  assert (measured[0] / "results.json").read_bytes() == before


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--dataset=msrvt"], r"'msrvt' .*data/.*msrvtt"),
    (["--dataset=../msrvtt"], r"--dataset='\.\./msrvtt' must be NAME or NAME/CONFIG"),
    (["--dataset="], "--dataset='' must be NAME or NAME/CONFIG"),
    (["--num_frames=0"], "--num_frames=0 must be at least 1"),
    (["--text_length=1"], "--text_length=1 must be at least 2"),
    (["--num_workers=-1"], "--num_workers=-1 must be at least 0"),
    (["--num_workers=999999"], "--num_workers=999999 must be at least 0 and at most 1024"),
    (["--batch_size=99999999999"], "--batch_size=99999999999 must be at least 1 and at most 16777216"),
    (["--text_length=9999999"], "--text_length=9999999 must be at least 2 and at most 1048576"),
    (["--batch_size=12"], r"--batch_size=12 .*divi.*8"),
    (["--tokenizer=none.json"], "none.json"),
    (["--model=nowhere.safetensors"], r"'nowhere\.safetensors': no such file"),
    (["--model=nowhere"], r"'nowhere' is .* source of weights.*\.safetensors.*hf://"),
    (["--num_frame=3"], "unrecognized arguments: --num_frame=3"),
    (["--num_frames=many"], "invalid int value: 'many'"),
    (["--crop=middle"], "argument --crop: invalid choice: 'middle'"),
  ],
  ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_written(corpora, clip, tmp_path, options, message):
  models = [] if "--model" in options[0] else [clip]
  with pytest.raises(UserError, match=message) as refused:
    command(corpora, tmp_path / "out", models, *CLIP_OPTIONS, *options)
  assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([], "pass either --model=SOURCE with --dataset, or --embeddings"),
    (["--model=a", "--embeddings=b"], "pass either --model"),
    (["--embeddings=b", "--num_frames=3"], "--num_frames does not apply to --embeddings.*leave it out"),
    (["--embeddings=b", "--crop=center"], "--crop does not apply to --embeddings"),
    (["--embeddings=b", "--dataset=msrvtt"], "--dataset does not apply to --embeddings"),
    (["--embeddings=none.safetensors"], "embeddings 'none.safetensors': no such file"),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_either_a_model_or_embeddings_is_required(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    evaluate.main([*options, f"--workdir={tmp_path / 'out'}"])


def test_exits_with_code_2_and_one_line_on_stderr(corpora):
  arguments = ["--model=nowhere", "--dataset=msrvtt", f"--data_dir={corpora}", "--workdir=build/never"]
  done = subprocess.run(
    [sys.executable, "-m", "clipvip_jax.evaluate", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 2 and done.stderr.startswith("error: 'nowhere' is "), done.stderr
  assert len(done.stderr.splitlines()) == 1 and not (ROOT / "build" / "never").exists()
