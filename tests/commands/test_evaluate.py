"""The command evaluate, end to end on a miniature: runs, a plain CLIP, protocols, kept embeddings, wrong options."""

import dataclasses
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
import written_corpus
from project_paths import GOLDEN, ROOT

from clipvip_jax import evaluate
from clipvip_jax.evaluation import published_results, split_embeddings, targets
from clipvip_jax.inference import embedding_model
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer
from clipvip_jax.training import setup, trainer
from clipvip_jax.utils.errors import UserError
from configs import post_pretrain

COUNT = 19  # clips, no multiple of a batch
OF_CLIP = ("--split=train", "--num_frames=2", "--batch_size=16", "--dtype=float32")
COVERAGE = {"train": {"expected": 21, "found": COUNT}}


def queries(number):
  """Two clips are described alike."""
  return [f"word{max(number, 1)} moves", f"word{number} stops"]


def records(several):
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    frames = [simplejpeg.encode_jpeg(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    texts = queries(i)[: 1 + (several and i % 2)]
    yield {
      "id": f"clip{i}",
      "frames": frames,
      "description": texts,
      "subtitle": texts[0],
      "caption": "seen" if i else "",
    }


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
  """A folder with msrvtt/9k, one query a clip, and msrvtt/full, several; all of it in a split "train"."""
  folder = tmp_path_factory.mktemp("corpora")
  for config in ("9k", "full"):
    metadata = {"coverage": COVERAGE, "pixels": "as drawn"}
    written_corpus.write(folder, records(config == "full"), name="msrvtt", config=config, metadata=metadata)
  return folder


def config_of_run(miniature, **changes):
  """The smoke recipe, in the shapes that test_train.py compiles as well."""
  value = post_pretrain.get_config("smoke")
  with value.unlocked():
    value.data.update({"name": "msrvtt", "config": "9k", "prepare": False, "data_dir": str(miniature)})
    value.evaluate.update({"selection_split": "train", "final_splits": ("train",), "num_examples": 3})
    value.update_from_flattened_dict(changes)
  return value.lock()


@pytest.fixture(scope="session")
def trained(miniature, tmp_path_factory):
  """(workdir, results) of a run."""
  folder = tmp_path_factory.mktemp("runs") / "0"
  return folder, trainer.train(config_of_run(miniature), folder)


@pytest.fixture(scope="session")
def runs(trained):
  """Workdirs of two runs that seem to differ in seed: the second has the weights of an earlier step."""
  first, second = trained[0], trained[0].with_name("1")
  shutil.copytree(first, second)
  shutil.rmtree(second / "checkpoints" / str(trained[1]["best_step"]))
  path = second / "config.json"
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
  return first, second


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
  """A folder with a plain CLIP in HuggingFace's layout."""
  folder = tmp_path_factory.mktemp("clip")
  shutil.copy(GOLDEN / "clip_tiny.safetensors", folder / "model.safetensors")
  heads = {"num_attention_heads": 4}
  (folder / "config.json").write_text(json.dumps({"text_config": heads, "vision_config": heads}))
  WordTokenizer.train([text for i in range(COUNT) for text in queries(i)], 100).save(folder / "tokenizer.json")
  return folder


def command(miniature, workdir, *options, dataset="msrvtt/9k"):
  """evaluate.main; options: a path is a --model."""
  options = [f"--model={option}" if isinstance(option, pathlib.Path) else option for option in options]
  arguments = [f"--dataset={dataset}", f"--data_dir={miniature}", f"--workdir={workdir}", "--num_workers=0"]
  evaluate.main([*arguments, *options])
  return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="session")
def measured(miniature, trained, tmp_path_factory):
  """(workdir, results) of the run on the corpus that it was trained on."""
  folder = tmp_path_factory.mktemp("measured")
  return folder, command(miniature, folder, trained[0])


def without_intervals(splits):
  splits = json.loads(json.dumps(splits))
  found = [direction.pop("R@1_interval") for split in splits.values() for direction in split["plain"].values()]
  return splits, found


def test_a_run_evaluated_again_gives_its_own_numbers_to_the_last_digit(measured, trained):
  folder, results = measured
  run, expected = trained
  splits, intervals = without_intervals(results["splits"])
  assert splits == expected["splits"]
  assert all(low <= high for low, high in intervals) and len(intervals) == 2
  assert {**results["corpus"], "mix": {}} == expected["corpus"] and results["num_params"] == expected["num_params"]
  assert results["model"]["source"] == str(run) and len(results["model"]["identity"]) == 32
  assert results["preprocessing"]["frames"].startswith("6 of each clip, evenly spread")
  assert results["preprocessing"]["dtype"] == "float32" and "not" in results["dual_softmax"]
  assert (folder / "report.html").read_text().count("data:image/jpeg") > 10


def test_the_table_holds_both_directions_dual_softmax_apart_and_what_is_amiss(
  miniature, measured, runs, tmp_path, capsys
):
  again = command(miniature, tmp_path, runs[0])
  printed = capsys.readouterr().out
  assert again == measured[1]
  assert (tmp_path / "embeddings_train.safetensors").read_bytes() == (
    measured[0] / "embeddings_train.safetensors"
  ).read_bytes()
  assert "train: 19 of 21 clips, 2 missing; 19 queries" in printed
  assert "warning: 2 of 19 queries are not unique" in printed
  plain = again["splits"]["train"]["plain"]["text_to_video"]
  row = next(line for line in printed.splitlines() if line.startswith("Text to video  "))
  assert row.split()[3:8] == [
    *(f"{100 * plain[f'R@{k}']:.1f}" for k in (1, 5, 10)), f"{plain['median_rank']:.1f}", f"{plain['mean_rank']:.1f}"
  ]  # fmt: skip
  assert "{:.1f} to {:.1f}".format(*(100 * x for x in plain["R@1_interval"])) in row
  for name in ("Video to text", "Text to video, dual softmax", "Video to text, dual softmax"):
    assert f"\n{name}  " in printed
  assert command(miniature, tmp_path, runs[0]) == again, "the same evaluation may be done again"


def test_embeddings_give_the_same_results_without_model_and_corpus(measured, tmp_path, monkeypatch):
  folder, _ = measured
  for name in ("open_corpus", "sources", "interface"):
    monkeypatch.delattr(targets, name)
  for number, source in enumerate((folder, folder / "embeddings_train.safetensors")):
    evaluate.main([f"--embeddings={source}", f"--workdir={tmp_path / str(number)}"])
    assert (tmp_path / str(number) / "results.json").read_bytes() == (folder / "results.json").read_bytes()
  with pytest.raises(UserError, match=r"holds no embeddings_test\.safetensors"):
    evaluate.main([f"--embeddings={folder}", f"--workdir={tmp_path}", "--split=test"])
  with pytest.raises(UserError, match="holds the split 'train', not --split=test"):
    evaluate.main([f"--embeddings={folder / 'embeddings_train.safetensors'}", f"--workdir={tmp_path}", "--split=test"])


def test_several_seeds_give_mean_and_standard_deviation(miniature, runs, tmp_path, capsys):
  found = command(miniature, tmp_path / "a", runs[0], runs[1])
  printed = capsys.readouterr().out
  each = [json.loads((tmp_path / "a" / f"model_{i}" / "results.json").read_text()) for i in (0, 1)]
  ranks = [one["splits"]["train"]["plain"]["text_to_video"]["mean_rank"] for one in each]
  spread = found["spread"]["train"]["plain"]["text_to_video"]["mean_rank"]
  assert spread == {"mean": pytest.approx(statistics.mean(ranks)), "sd": pytest.approx(statistics.stdev(ranks))}
  assert f"{statistics.mean(ranks):.1f} ± {statistics.stdev(ranks):.1f}" in printed
  assert [one["source"] for one in found["models"]] == [str(run) for run in runs]
  assert (tmp_path / "a/model_1/report.html").exists() and "published" in found
  evaluate.main([f"--embeddings={tmp_path / 'a'}", f"--workdir={tmp_path / 'b'}"])
  assert (tmp_path / "b" / "results.json").read_bytes() == (tmp_path / "a" / "results.json").read_bytes()


def test_a_plain_clip_pools_the_mean_and_the_recipe_says_the_rest(miniature, clip, tmp_path):
  config = command(miniature, tmp_path, clip, *OF_CLIP)["config"]
  assert config["model"]["temporal"] == "mean"
  assert config["data"]["text_length"] == 16, "the recipe's 50 are more than the weights have"
  assert config["evaluate"]["query"] == "description" and config["data"]["caption"] == ""
  assert (config["data"]["num_frames"], config["evaluate"]["batch_size"]) == (2, 16)


def configured(name, patch_size=32, run=None, **options):
  sizes = {"patch_size": patch_size, "text": {"positions": 77, "vocab_size": 49408}}
  weights = targets.sources.Weights("w", {}, targets.ConfigDict(sizes), False, run)
  found = targets.configuration(weights, targets.EvaluationOptions(name, **options))
  data, evaluation = found.data, found.evaluate
  return data.config, data.num_frames, data.text_length, evaluation.final_splits, evaluation.query, found.model.dtype


def test_what_is_not_said_comes_from_the_recipe_the_run_or_the_base():
  assert configured("msrvtt") == ("9k", 12, 50, ("test",), "description", "bfloat16")
  assert configured("msrvtt/full", dtype="float32")[::5] == ("full", "float32")
  assert configured("didemo")[1:3] == (12, 50) and configured("didemo", 16)[1:3] == (12, 70)
  assert configured("activitynet_captions")[1:4] == (32, 70, ("validation",))
  assert configured("webvid", split="validation") == ("", 12, 70, ("validation",), "description", "bfloat16")
  run = post_pretrain.get_config("smoke")
  assert configured("moving_shapes", run=run)[:4] == ("smoke", 6, 28, ("test", "test_unseen"))
  assert configured("moving_shapes/demo", run=run, num_frames=3)[:2] == ("demo", 3)
  assert configured("msrvtt", run=run)[1:3] == (12, 50), "trained on another corpus"
  assert configured("webvid", run=run)[1:3] == (6, 28)
  run.evaluate.update({"name": "didemo", "config": "mine", "final_splits": ("validation",)})
  assert configured("didemo", run=run)[:4] == ("mine", 6, 28, ("validation",)), "evaluated on another corpus"
  weights = targets.sources.Weights("w", {}, targets.ConfigDict({"text": {"positions": 77}}), False, run)
  for folders in ({"data": "a", "evaluate": ""}, {"data": "b", "evaluate": "a"}):  # as training looks for it
    for section, folder in folders.items():
      run[section].data_dir = folder
    assert targets._whole(weights, "didemo")[0].data.data_dir == "a"


def test_the_tokenizer_is_the_one_asked_for_the_runs_the_vocabularys_or_the_one_beside_the_weights():
  def name(vocab_size, asked=None, beside="", trained=None):
    run = trained and targets.ConfigDict({"data": {"tokenizer": trained}})
    sizes = targets.ConfigDict({"text": {"vocab_size": vocab_size}})
    return embedding_model.tokenizer_name(targets.sources.Weights("w", {}, sizes, False, run, beside), asked)

  assert (name(49408), name(49408, beside="b.json"), name(7, beside="b.json"), name(7)) == (
    "clip",
    "clip",
    "b.json",
    "",
  )
  assert name(49408, trained="t.json") == "t.json" and name(7, beside="b.json", trained="words") == "b.json"
  assert name(7, trained="words") == "" and name(49408, "a.json", "b.json", "t.json") == "a.json"


def test_published_figures_stand_beneath_those_of_their_test_set(miniature, clip, tmp_path, capsys, monkeypatch):
  rows = published_results.published_rows("msrvtt/9k/1.0.0", "test")
  found = {(row["setting"], row["model"], row["kind"], row["direction"]): row["R@1"] for row in rows}
  assert found["fine-tuned", "B/32", "plain", "text_to_video"] == 0.501
  assert found["zero-shot", "B/16", "plain", "text_to_video"] == 0.317 and len(found) == 7
  assert len(published_results.published_rows("activitynet_captions/default/1.0.0", "validation")) == 4
  assert not published_results.published_rows("msrvtt/full/1.0.0", "test") + published_results.published_rows(
    "msrvtt/9k/1.0.0", "train"
  )
  monkeypatch.setattr(evaluate.published_results, "published_rows", lambda corpus, split: rows)
  results = command(miniature, tmp_path, clip, *OF_CLIP)
  assert results["published"] == {"train": rows}
  printed = capsys.readouterr().out
  assert "published on MSR-VTT 1k-A, 1,000 clips:" in printed
  row = next(line for line in printed.splitlines() if line.startswith("B/16 fine-tuned, dual softmax "))
  assert row.split()[4:7] == ["57.7", "80.5", "88.2"]


def test_several_queries_a_clip_need_the_protocol_that_ranks_each(miniature, runs, tmp_path):
  run = runs[0]
  with pytest.raises(UserError, match=r"9 of 19 clips have several queries, first 'clip1' with 2; --protocol=multi"):
    command(miniature, tmp_path / "single", run, dataset="msrvtt/full")
  assert not (tmp_path / "single").exists()
  split = command(miniature, tmp_path / "multi", run, "--protocol=multi", dataset="msrvtt/full")["splits"]["train"]
  assert (split["size"], split["queries"]) == (COUNT, COUNT + 9)
  kept = [f"--embeddings={tmp_path / 'multi'}", f"--workdir={tmp_path / 'kept'}"]
  evaluate.main(kept)
  with pytest.raises(UserError, match=r"several queries.*--protocol=multi"):
    evaluate.main([*kept, "--protocol=single"])
  with pytest.raises(UserError, match=r"first 'clip1' with 2; --config\.evaluate\.protocol=multi"):
    setup.prepare(config_of_run(miniature, **{"data.config": "full"}), tmp_path / "run")
  setup.prepare(config_of_run(miniature, **{"data.config": "full", "evaluate.protocol": "multi"}), tmp_path / "run")


def test_a_run_whose_configuration_and_checkpoint_differ_is_refused(miniature, runs, tmp_path):
  shutil.copytree(runs[0], tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  config = json.loads(path.read_text())
  config["model"]["image_size"] = 64
  path.write_text(json.dumps(config))
  with pytest.raises(UserError, match=r"does not fit config\.model: vision/position_embedding is \(17, 32\)"):
    command(miniature, tmp_path / "out", tmp_path / "run")
  path.write_text(json.dumps({**config, "model": {**config["model"], "image_size": 32}, "optimizer": 3}))
  with pytest.raises(UserError, match=r"its config\.json is none of this program"):
    command(miniature, tmp_path / "out", tmp_path / "run")


def test_models_that_are_no_runs_of_one_experiment_are_refused(miniature, runs, clip, tmp_path):
  with pytest.raises(UserError, match=r"model\.vision\.width 32 and 64"):
    command(miniature, tmp_path / "out", runs[0], clip, *OF_CLIP)
  shutil.copytree(runs[1], tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  path.write_text(path.read_text().replace('"learning_rate": 0.002', '"learning_rate": 0.5'))
  with pytest.raises(UserError, match=r"differ in seed and folders alone: optimizer\.learning_rate 0\.002 and 0\.5$"):
    command(miniature, tmp_path / "out", runs[0], tmp_path / "run")
  for same in ((runs[0], runs[0]), (runs[0], runs[1], runs[1])):
    with pytest.raises(UserError, match="are the same weights"):
      command(miniature, tmp_path / "out", *same)
  assert not (tmp_path / "out").exists()


def test_kept_embeddings_of_runs_that_differ_have_no_spread(miniature, runs, tmp_path):
  shutil.copytree(runs[1], tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  path.write_text(path.read_text().replace('"learning_rate": 0.002', '"learning_rate": 0.5'))
  kept = []
  for number, run in enumerate((runs[0], tmp_path / "run", runs[1])):
    command(miniature, tmp_path / f"{number}", run)
    kept.append(f"--embeddings={tmp_path / f'{number}'}")
  with pytest.raises(UserError, match=r"optimizer\.learning_rate 0\.002 and 0\.5$"):
    evaluate.main([*kept[:2], f"--workdir={tmp_path / 'no'}"])
  evaluate.main([kept[0], kept[2], f"--workdir={tmp_path / 'spread'}"])
  file = tmp_path / "2" / "embeddings_train.safetensors"
  found = split_embeddings.read_embeddings(file)
  about = {name: value for name, value in found.about.items() if name != "run"}
  split_embeddings.write_embeddings(tmp_path / "no_run.safetensors", dataclasses.replace(found, about=about))
  with pytest.raises(UserError, match="weights of a run 'a run' and 'none'"):
    evaluate.main([kept[0], f"--embeddings={tmp_path / 'no_run.safetensors'}", f"--workdir={tmp_path / 'no'}"])


def _starting_from(run, folder, source):
  """A copy of a run that started from a source."""
  shutil.copytree(run, folder)
  path = folder / "config.json"
  path.write_text(path.read_text().replace('"init_from": ""', f'"init_from": "{source}"'))
  return folder


def test_a_run_is_not_bound_to_what_computed_its_attention(miniature, measured, trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / "run")
  path = tmp_path / "run" / "config.json"
  assert '"attention": "auto"' in path.read_text()
  path.write_text(path.read_text().replace('"attention": "auto"', '"attention": "cudnn"'))
  found = command(miniature, tmp_path / "out", tmp_path / "run")
  assert found["model"]["identity"] == measured[1]["model"]["identity"]


def test_runs_that_start_from_runs_of_their_own_seeds_have_a_spread(miniature, runs, tmp_path):
  first, second = (_starting_from(run, tmp_path / f"{i}", f"exp1/pretrain/seed_{i}@400") for i, run in enumerate(runs))
  assert command(miniature, tmp_path / "out", first, second)["spread"]
  other = _starting_from(runs[1], tmp_path / "other", "exp2/pretrain/seed_1@400")
  with pytest.raises(UserError, match=r"init_from 'exp1/pretrain/seed_0@400' and 'exp2/pretrain/seed_1@400'$"):
    command(miniature, tmp_path / "no", first, other)
  same = [_starting_from(run, tmp_path / f"same_{i}", "/disk1/clip-laion2B.pt") for i, run in enumerate(runs)]
  assert command(miniature, tmp_path / "shared", *same)["spread"]


def test_embeddings_of_other_clips_have_no_spread(measured, tmp_path):
  first = split_embeddings.read_embeddings(measured[0] / "embeddings_train.safetensors")
  about = {**first.about, "model": {"identity": "other"}}
  other = dataclasses.replace(first, ids=[f"{name}!" for name in first.ids], about=about)
  split_embeddings.write_embeddings(tmp_path / "other.safetensors", other)
  with pytest.raises(UserError, match="hold other clips or queries"):
    evaluate.main(
      [f"--embeddings={measured[0]}", f"--embeddings={tmp_path / 'other.safetensors'}", f"--workdir={tmp_path / 'out'}"]
    )
  odd = (
    ({"config": 3}, "about.config is 3"),
    ({"num_params": "3"}, "about.num_params is 3"),
    ({"num_params": 10**400}, "about.num_params is 1000"),
    ({"config": {"evaluate": {"protocol": []}}}, r"--protocol=\[\] is unknown"),
    ({"corpus": {"name": "\x1b"}}, ""),
  )
  for name, message in odd:
    split_embeddings.write_embeddings(tmp_path / "odd.safetensors", dataclasses.replace(first, about=name))
    arguments = [f"--embeddings={tmp_path / 'odd.safetensors'}", f"--workdir={tmp_path / 'odd'}"]
    if not message:
      evaluate.main(arguments)
      continue
    with pytest.raises(UserError, match=message):
      evaluate.main(arguments)


def test_a_folder_of_another_evaluation_or_of_a_run_is_refused(miniature, measured, runs, tmp_path):
  before = (measured[0] / "results.json").read_bytes()
  with pytest.raises(UserError, match=r"another evaluation \(.*data\.num_frames: 6 there, 3 now"):
    command(miniature, measured[0], runs[0], "--num_frames=3")
  with pytest.raises(UserError, match="holds a run: name another --workdir"):
    command(miniature, runs[0], runs[0])
  with pytest.raises(UserError, match="holds an evaluation: name another for a run"):
    trainer.train(config_of_run(miniature), measured[0])
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="is a file"):
    command(miniature, tmp_path / "file", runs[0])
  assert (measured[0] / "results.json").read_bytes() == before


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--dataset=msrvt"], r"corpus='msrvt' is no corpus in data/; there are: .*msrvtt"),
    (["--dataset=../msrvtt"], r"--dataset='\.\./msrvtt' must be NAME or NAME/CONFIG"),
    (["--dataset="], "must be NAME or NAME/CONFIG"),
    (["--dataset=msrvtt/8k"], r"configuration='8k' of corpus msrvtt is not in .*there: 9k, full; .*--data_dir=DIR"),
    (["--split=tset"], r"no split 'tset'; it has: train"),
    (["--query=descripton"], r"no text 'descripton'; they have: .*description"),
    (["--protocol=many"], r"^--protocol='many' is unknown; allowed: single, multi"),
    (["--num_frames=0"], "--num_frames=0 must be at least 1"),
    (["--text_length=1"], "--text_length=1 must be at least 2"),
    (["--num_workers=-1"], "--num_workers=-1"),
    (["--batch_size=12"], r"--batch_size=12 cannot be divided by 8 devices"),
    (["--dtype=float8"], r"dtype='float8' is unknown; allowed: float32, bfloat16"),
    (["--temporal=max"], r"temporal='max' is unknown"),
    (["--tokenizer=clip"], r"tokenizer 'clip' has 49408 tokens, the weights of .* have 512"),
    (["--tokenizer=none.json"], "none.json"),
    (["--model=nowhere.safetensors"], "no such file"),
    (["--model=nowhere"], "no source of weights"),
    (["--num_frame=3"], "unrecognized arguments: --num_frame=3"),
    (["--num_frames=many"], "invalid int value: 'many'"),
  ],
  ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_written(miniature, runs, tmp_path, options, message):
  model = [] if "--model" in options[0] else [runs[0]]
  with pytest.raises(UserError, match=message) as refused:
    command(miniature, tmp_path / "out", *model, *options)
  assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([], "name what to evaluate"),
    (["--model=a", "--embeddings=b"], "name what to evaluate"),
    (["--embeddings=b", "--num_frames=3"], "--num_frames says nothing of embeddings"),
    (["--embeddings=b", "--dataset=msrvtt"], "--dataset says nothing of embeddings"),
    (["--embeddings=none.safetensors"], "embeddings 'none.safetensors': no such file"),
  ],
  ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_model_or_embeddings(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    evaluate.main([*options, f"--workdir={tmp_path / 'out'}"])


def test_a_wrong_command_ends_with_one_plain_line(miniature):
  arguments = ["--model=nowhere", "--dataset=msrvtt", f"--data_dir={miniature}", "--workdir=build/never"]
  done = subprocess.run(
    [sys.executable, "-m", "clipvip_jax.evaluate", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 2 and done.stderr.startswith("error: 'nowhere' is no source of weights"), done.stderr
  assert len(done.stderr.splitlines()) == 1 and not (ROOT / "build" / "never").exists()
