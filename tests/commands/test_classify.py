"""The command classify: equal to a plain loop, end to end, and wrong options."""

import importlib.util
import json
import subprocess
import sys

import miniature
import numpy as np
import pytest
from videos import write_videos

import clipvip_jax
from clipvip_jax import classify
from clipvip_jax.input_pipeline import preprocessing, read_media
from clipvip_jax.utils.errors import UserError

TEMPLATES = ("{} moves", "the {} stops", "{}")
NAMES = [f"word{number}" for number in range(1, 8)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return miniature.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def sources(tmp_path):
  """Folder with seven classes that have ids, templates, and a manifest of ten videos, of every other a part only."""
  write_videos(tmp_path / "v", 10)
  (tmp_path / "classes.csv").write_text("id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(NAMES)))
  (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES))
  rows = [
    {"video": f"v/{i:03d}.mp4", "label": i % 5, **({"start": 0.25, "end": 0.75} if i % 2 else {})} for i in range(10)
  ]
  (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return tmp_path


def command(clip, sources, *options):
  names = ("videos.jsonl", "classes.csv", "templates.txt")
  videos, classes, templates = (sources / name for name in names)
  arguments = [f"--model={clip}", f"--videos={videos}", f"--classes={classes}", f"--templates={templates}"]
  classify.main([*arguments, f"--workdir={sources / 'out'}", *options])
  return json.loads((sources / "out" / "results.json").read_text())


def unit(vector):
  return vector / np.sqrt((vector**2).sum())


def plain_loop(model, sources, views):
  """Scores [N, C] and labels [N] in float64: one video, one view, one prompt at a time."""
  weights = []
  for name in NAMES:
    prompts = [model.embed_texts([template.replace("{}", name)])[0].astype(np.float64) for template in TEMPLATES]
    weights.append(unit(sum(unit(prompt) for prompt in prompts) / len(prompts)))
  scores, labels, frames = [], [], model.config.data.num_frames
  for line in (sources / "videos.jsonl").read_text().splitlines():
    row = json.loads(line)
    decoded = read_media.read_frames(sources / row["video"], 4)  # all of them, four a second
    shown = decoded[1:3] if "start" in row else decoded
    indices = np.linspace(0, len(shown) - 1, views * frames).astype(int)
    feature = np.zeros(len(weights[0]))
    for view in range(views):
      chosen = indices[view * frames : (view + 1) * frames]
      pixels = np.stack([preprocessing.resize_normalize(shown[i], model.config.model.image_size) for i in chosen])
      feature += unit(next(model.embed_pixels([pixels])).astype(np.float64)) / views
    scores.append([float(unit(feature) @ weight) for weight in weights])
    labels.append(row["label"])
  return np.array(scores), np.array(labels)


@pytest.mark.parametrize("views", [1, 3])
def test_classify_equals_a_plain_loop(clip, sources, capsys, views):
  results = command(clip, sources, f"--views={views}")
  scores, labels = plain_loop(clipvip_jax.load(clip), sources, views)
  predictions = [json.loads(line) for line in (sources / "out" / "predictions.jsonl").read_text().splitlines()]
  for line, row, label in zip(predictions, scores, labels, strict=True):
    order = np.argsort(-row)
    assert np.diff(np.sort(row)).min() > 1e-5, "no ties within the tolerance"
    assert [entry["class"] for entry in line["predicted"]] == [NAMES[i] for i in order[:5]]
    np.testing.assert_allclose([entry["score"] for entry in line["predicted"]], row[order[:5]], atol=2e-6)
    assert line["label"] == NAMES[label] and line["rank"] == order.tolist().index(label) + 1
  ranks = np.array([line["rank"] for line in predictions])
  metrics = results["zero_shot"]
  assert metrics["top1"] == (ranks == 1).mean() and metrics["top5"] == (ranks <= 5).mean()
  by_class = [(ranks[labels == label] == 1).mean() for label in range(5)]
  assert metrics["mean_class_accuracy"] == pytest.approx(np.mean(by_class)) and metrics["classes_without_videos"] == 2
  printed = capsys.readouterr().out
  assert "10 of 10 videos, 0 skipped; 7 classes" in printed and f"{100 * metrics['top5']:.1f}" in printed
  page = (sources / "out" / "report.html").read_text()
  assert "Most confused classes, zero-shot" in page and f"{views}, of 12 frames each" in page


@pytest.mark.slow
def test_probe_on_kept_features(clip, sources, capsys):
  (sources / "t" / "word1").mkdir(parents=True)
  write_videos(sources / "t" / "word1", 3, bad=(2,))
  (sources / "t" / "word2").mkdir()
  for number in range(2):
    (sources / "t" / "word2" / f"{number}.mp4").write_bytes((sources / "v" / f"{number + 5:03d}.mp4").read_bytes())
  results = command(clip, sources, "--probe", f"--train={sources / 't'}", "--max_skipped=0.2")
  assert results["probe"]["train_videos"] == 4 and len(results["probe"]["train_skipped"]) == 1
  assert "Linear probe" in capsys.readouterr().out
  written = (sources / "out" / "results.json").read_bytes()
  assert command(clip, sources, "--probe", f"--train={sources / 't'}", "--max_skipped=0.2") == results
  assert (sources / "out" / "results.json").read_bytes() == written


BASIC = ["--model=x", "--videos=videos.jsonl", "--classes=classes.csv", "--workdir=out"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([], "the following arguments are required: --model, --videos, --classes, --workdir"),
    ([*BASIC, "--views=0"], "--views=0 must be at least 1"),
    ([*BASIC, "--threads=-1"], "--threads=-1 must be at least 0"),
    ([*BASIC, "--max_skipped=2"], "=2.0 must be between 0 and 1"),
    ([*BASIC, "--crop=middle"], "argument --crop: invalid choice"),
    ([*BASIC, "--probe"], "--probe needs --train=VIDEOS"),
    ([*BASIC, "--train=videos.jsonl"], "--train needs --probe"),
    ([*BASIC, "--probe", "--train=videos.jsonl"], "10 videos are in both --train and --videos"),
    ([*BASIC, "--classes=none.txt"], "none.txt: cannot be read"),
    ([*BASIC, "--classes=templates.txt"], "10 of 10 videos have labels that are not in the class list: '0', '1'"),
    ([*BASIC, "--templates=classes.csv"], r"classes\.csv, line 1: template 'id,name' has no \{\}"),
    ([*BASIC, "--videos=v"], "is in no sub-folder"),
    ([*BASIC, "--videos=v", "--video_dir=v"], "--video_dir=v applies to lists only, and --videos is a folder"),
    ([*BASIC, "--video_dir=none"], "--video_dir=none is not a folder"),
    (BASIC, "'x' is no|'x': no|'x' is"),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_before_anything_is_written(sources, monkeypatch, options, message):
  monkeypatch.chdir(sources)
  with pytest.raises(UserError, match=message) as refused:
    classify.main(options)
  assert "\n" not in str(refused.value) and not (sources / "out").exists()


def test_probe_without_scikit_learn_is_refused_at_once(sources, monkeypatch):
  monkeypatch.chdir(sources)
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest))
  with pytest.raises(UserError, match=r"pip install 'clipvip_jax\[probe\]'"):
    classify.main([*BASIC, "--probe", "--train=videos.jsonl"])


def test_exits_with_code_2_and_one_line_on_stderr(sources):
  command = [sys.executable, "-m", "clipvip_jax.classify", *BASIC, f"--classes={sources / 'templates.txt'}"]
  done = subprocess.run([*command, f"--videos={sources / 'videos.jsonl'}"], capture_output=True, text=True)
  (line,) = done.stderr.splitlines()
  assert done.returncode == 2 and "labels that are not in the class list" in line
