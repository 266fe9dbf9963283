"""Classification of videos by their colours: the workdir, resuming, skipped videos, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from fake_model import COLOURS, FakeModel
from videos import write_videos

from clipvip_jax.evaluation import classification
from clipvip_jax.evaluation.class_list import read_classes
from clipvip_jax.evaluation.classification import ClassificationTask, classify
from clipvip_jax.evaluation.labelled_videos import LabelledVideo
from clipvip_jax.inference import index_builder, video_index
from clipvip_jax.inference.video_clip import VideoClip
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def classes(tmp_path):
  path = tmp_path / "classes.txt"
  path.write_text("red\ngreen\nblue\n")
  return read_classes(path, ("{}", "a video of {}."))


@pytest.fixture
def videos(tmp_path):
  """Nine videos, of which the last is labelled wrongly."""
  paths = write_videos(tmp_path / "v", 9)
  return [LabelledVideo(VideoClip(str(path)), number % 3 if number < 8 else 0) for number, path in enumerate(paths)]


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_results_predictions_and_features(tmp_path, classes, videos):
  results = classify(FakeModel(), ClassificationTask(classes, videos), tmp_path / "w")
  assert json.loads((tmp_path / "w" / "results.json").read_text()) == results
  metrics = results["zero_shot"]
  assert metrics["top1"] == pytest.approx(8 / 9) and metrics["mean_class_accuracy"] == pytest.approx((3 / 4 + 2) / 3)
  assert metrics["confusions"] == [{"label": "red", "predicted": "blue", "videos": 1, "share": 0.25}]
  assert results["classes"] == {name: [name, f"a video of {name}."] for name in COLOURS}
  index = video_index.read_index(tmp_path / "w" / "videos.safetensors")
  assert index.videos == [video.clip.path for video in videos]
  predictions = lines(tmp_path / "w" / "predictions.jsonl")
  assert [line["predicted"][0]["class"] for line in predictions] == [COLOURS[i % 3] for i in range(9)]
  assert [line["rank"] for line in predictions[:8]] == [1] * 8 and predictions[8]["rank"] > 1
  assert predictions[8]["label"] == "red" and predictions[0]["predicted"][0]["score"] == pytest.approx(
    index.features[0, 0]
  )


def test_a_feature_of_a_class_is_the_mean_of_its_prompts_of_unit_length(classes):
  class Texts:
    def embed_texts(self, texts):
      self.texts = texts
      features = np.array([[len(text), text.count("a"), 1] for text in texts], np.float32)
      return features / np.linalg.norm(features, axis=1, keepdims=True)

  model = Texts()
  prompts = [["a", "banana"], ["b"], ["banana", "xyz", "a"]]
  features = classification.class_features(model, prompts)
  assert len(model.texts) == 4, "each distinct prompt once"
  for feature, texts in zip(features, prompts, strict=True):
    each = [np.array([len(text), text.count("a"), 1]) for text in texts]
    mean = sum(vector / np.sqrt((vector**2).sum()) for vector in each)
    np.testing.assert_allclose(feature, mean / np.sqrt((mean**2).sum()), atol=1e-6)


def test_resumes_and_keeps_features_for_other_prompts(tmp_path, classes, videos, monkeypatch):
  monkeypatch.setattr(index_builder, "PART_SIZE", 4)
  task = ClassificationTask(classes, videos)
  with pytest.raises(KeyboardInterrupt):
    classify(FakeModel(stop_after=6), task, tmp_path / "w")
  resumed = FakeModel()
  expected = classify(resumed, task, tmp_path / "w")
  assert resumed.embedded == 5
  again = FakeModel()
  path = tmp_path / "others.txt"
  path.write_text("blue\nred\ngreen\nred and blue\n")
  others = read_classes(path, ("only {}",))
  renamed = [LabelledVideo(video.clip, [1, 2, 0][video.label]) for video in videos]
  results = classify(again, ClassificationTask(others, renamed), tmp_path / "w")
  assert again.embedded == 0 and results["classes"]["blue"] == ["only blue"]
  assert results["zero_shot"]["per_class"]["red"] == expected["zero_shot"]["per_class"]["red"]


class Vandal(FakeModel):
  """Changes a folder when it embeds the texts."""

  def __init__(self, change):
    super().__init__()
    self._change = change

  def embed_texts(self, texts):
    self._change()
    return super().embed_texts(texts)


@pytest.mark.parametrize("probe", [False, True])
def test_a_workdir_that_is_deleted_meanwhile_can_be_used_again(tmp_path, classes, videos, probe):
  task = ClassificationTask(classes, videos[:6], train=videos[6:] if probe else None)
  results = classify(Vandal(lambda: shutil.rmtree(tmp_path / "w")), task, tmp_path / "w")
  again = FakeModel()
  assert classify(again, task, tmp_path / "w") == results and again.embedded == 0


def test_a_workdir_that_is_replaced_by_a_file_meanwhile_is_an_error_of_one_line(tmp_path, classes, videos):
  def replace():
    shutil.rmtree(tmp_path / "w")
    (tmp_path / "w").touch()

  with pytest.raises(UserError, match=r"w/videos\.safetensors\.parts cannot be written \(Not a directory\)"):
    classify(Vandal(replace), ClassificationTask(classes, videos), tmp_path / "w")


def test_unreadable_and_missing_videos_are_counted_and_named(tmp_path, classes, videos):
  (tmp_path / "v" / "003.mp4").write_bytes(b"<html>")
  (tmp_path / "v" / "004.mp4").unlink()
  with pytest.raises(UserError, match=r"2 of 9 videos cannot be read, more than --max_skipped=0.05"):
    classify(FakeModel(), ClassificationTask(classes, videos), tmp_path / "w")
  results = classify(FakeModel(), ClassificationTask(classes, videos, max_skipped=0.5), tmp_path / "w")
  assert [row["video"][-7:] for row in results["skipped"]] == ["003.mp4", "004.mp4"]
  assert "no such file" in results["skipped"][1]["reason"]
  assert results["videos"] == 9 and results["zero_shot"]["size"] == 7
  assert len(lines(tmp_path / "w" / "predictions.jsonl")) == 7


def test_probe_learns_what_prompts_do_not_say(tmp_path, classes, videos):
  rotated = [
    LabelledVideo(VideoClip(str(path)), (number + 1) % 3) for number, path in enumerate(write_videos(tmp_path / "t", 9))
  ]
  test = [LabelledVideo(video.clip, (number + 1) % 3) for number, video in enumerate(videos)]
  results = classify(FakeModel(), ClassificationTask(classes, test, train=rotated), tmp_path / "w")
  assert results["zero_shot"]["top1"] == 0 and results["probe"]["top1"] == 1
  assert results["probe"]["train_videos"] == 9 and results["probe"]["validation_videos"] == 3
  assert results["probe"]["C"] > 0 and results["probe"]["untrained_classes"] == []
  predictions = lines(tmp_path / "w" / "predictions_probe.jsonl")
  assert [line["predicted"][0]["class"] for line in predictions] == [line["label"] for line in predictions]
  assert video_index.read_index(tmp_path / "w" / "train.safetensors").features.shape == (9, 3)
  once = FakeModel()
  assert classify(once, ClassificationTask(classes, test, train=rotated), tmp_path / "w") == results
  assert once.embedded == 0


def test_files_of_the_workdir_are_of_one_call(tmp_path, classes, videos):
  folder = tmp_path / "w"
  outcome = (folder / "results.json", folder / "predictions.jsonl", folder / "predictions_probe.jsonl")
  train = [LabelledVideo(VideoClip(str(path)), 0) for path in write_videos(tmp_path / "t", 3)]
  classify(FakeModel(), ClassificationTask(classes, videos, train=[*train[:2], *videos[1:3]]), folder)
  before = [path.read_bytes() for path in outcome]
  (folder / "train.safetensors").unlink()
  relabelled = [LabelledVideo(video.clip, 2) for video in videos]
  with pytest.raises(UserError, match="a probe needs at least two classes"):
    classify(FakeModel(), ClassificationTask(classes, relabelled, train=train), folder)
  assert [path.read_bytes() for path in outcome] == before
  classify(FakeModel(), ClassificationTask(classes, relabelled), folder)
  assert outcome[0].read_bytes() != before[0] and outcome[1].read_bytes() != before[1] and not outcome[2].exists()


def test_classes_without_training_videos_are_said(tmp_path, classes, videos, caplog):
  train = [
    LabelledVideo(VideoClip(str(path)), number % 2) for number, path in enumerate(write_videos(tmp_path / "t", 6))
  ]
  with caplog.at_level("WARNING", logger="clipvip_jax"):
    results = classify(FakeModel(), ClassificationTask(classes, videos, train=train), tmp_path / "w")
  assert results["probe"]["untrained_classes"] == ["blue"]
  assert "1 of 3 classes have no training video, and are never predicted, first blue" in caplog.text


def test_folders_of_something_else_are_refused(tmp_path, classes, videos):
  task = ClassificationTask(classes, videos)
  classify(FakeModel(), task, tmp_path / "w")
  other = FakeModel()
  other.identity = "fake-2"
  with pytest.raises(
    UserError, match=r"another evaluation \(model: 'fake-1' there, 'fake-2' now\); choose another --workdir"
  ):
    classify(other, task, tmp_path / "w")
  with pytest.raises(UserError, match=r"another evaluation \(views: 1 there, 2 now\)"):
    classify(FakeModel(), ClassificationTask(classes, videos, views=2), tmp_path / "w")
  with pytest.raises(UserError, match="index of another model or of other videos; name another --workdir"):
    classify(FakeModel(), ClassificationTask(classes, videos[:3]), tmp_path / "w")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(UserError, match="holds a run; name another folder for its classification"):
    classify(FakeModel(), task, tmp_path / "run")
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="is a file; name a folder"):
    classify(FakeModel(), task, tmp_path / "file")
