"""The adapter for mteb: with stand-ins of its loader and decoders, and in a task of mteb where it is installed."""

import types

import numpy as np
import pytest
from fake_model import COLOURS, FakeModel
from videos import decode_video, write_videos

from clipvip_jax.inference import mteb_adapter
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.utils.errors import UserError

UNUSED = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}


class Decoder:
  """What is used of torchcodec's VideoDecoder: frames [T, 3, H, W]."""

  def __init__(self, path):
    self._frames = np.moveaxis(decode_video(path), -1, 1)
    self.metadata = types.SimpleNamespace(num_frames=len(self._frames))

  def get_frames_at(self, indices):
    return types.SimpleNamespace(data=self._frames[indices])


class Loader:
  """What is used of PyTorch's DataLoader over rows of a datasets.Dataset."""

  def __init__(self, rows, batch_size=2):
    self.dataset = types.SimpleNamespace(features=dict.fromkeys(rows[0]))
    self.collate_fn, self._rows, self._size = None, rows, batch_size

  def __iter__(self):
    for start in range(0, len(self._rows), self._size):
      rows = self._rows[start : start + self._size]
      default = {name: [row[name] for row in rows] for name in rows[0]}
      yield self.collate_fn(rows) if self.collate_fn else default


@pytest.fixture
def videos(tmp_path):
  return write_videos(tmp_path / "v", 5)


def test_videos_and_texts_have_the_features_of_the_model(videos):
  encoder = mteb_adapter.MtebEncoder(FakeModel())
  features = encoder.encode(Loader([{"video": Decoder(video), "label": 0} for video in videos]), **UNUSED)
  model = FakeModel()
  expected = [next(model.embed_pixels([model.read_clip(video)])) for video in videos]
  np.testing.assert_allclose(features, expected, atol=1e-6)
  texts = [f"a {colour} ball" for colour in COLOURS]
  embedded = encoder.encode(Loader([{"text": text} for text in texts]), **UNUSED, prompt_type="query", batch_size=2)
  np.testing.assert_array_equal(embedded, np.eye(3))
  similarity = encoder.similarity(features, embedded)
  assert similarity.shape == (5, 3) and (similarity.argmax(1) == np.arange(5) % 3).all()
  np.testing.assert_allclose(encoder.similarity_pairwise(features[:3], embedded), np.diagonal(similarity[:3]))
  np.testing.assert_allclose(encoder.similarity(features[0], embedded), similarity[:1])


def test_rows_with_text_and_video_have_the_mean_of_both(videos):
  encoder, model = mteb_adapter.MtebEncoder(FakeModel()), FakeModel()
  rows = [{"video": Decoder(video), "text": "green"} for video in videos]
  expected = np.array([next(model.embed_pixels([model.read_clip(video)])) for video in videos]) + np.eye(3)[1]
  expected /= np.sqrt((expected**2).sum(1, keepdims=True))
  np.testing.assert_allclose(encoder.encode(Loader(rows), **UNUSED), expected, atol=1e-6)


def test_frames_are_those_of_the_evaluation(videos):
  for count in (1, 3, 9):
    frames = mteb_adapter.sample_frames(Decoder(videos[0]), count)
    np.testing.assert_array_equal(frames, decode_video(videos[0])[uniform_frames(4, count)])


def test_rows_of_other_modalities_are_refused():
  encoder = mteb_adapter.MtebEncoder(FakeModel())
  with pytest.raises(UserError, match="neither texts nor videos, but audio, id; choose another"):
    encoder.encode(Loader([{"audio": 1, "id": 2}]), **UNUSED)


@pytest.mark.slow
def test_runs_in_a_zero_shot_task_of_mteb(videos, tmp_path):
  mteb = pytest.importorskip("mteb", reason="mteb, which needs PyTorch, is no requirement of this project")
  import datasets
  from mteb.abstasks.task_metadata import TaskMetadata
  from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
  from mteb.models import EncoderProtocol

  def decode(columns):  # in place of datasets.Video, whose decoder needs an installed FFmpeg
    return {**columns, "video": [Decoder(path) for path in columns["video"]]} if "video" in columns else columns

  class Colours(AbsTaskZeroShotClassification):
    metadata = TaskMetadata(
      name="Colours",
      description="Videos of one colour.",
      dataset={"path": "none", "revision": "none"},
      type="VideoZeroshotClassification",
      category="v2t",
      modalities=["video", "text"],
      eval_langs=["eng-Latn"],
      main_score="accuracy",
    )
    input_column_name = "video"

    def load_data(self, **kwargs):
      columns = {"video": [str(video) for video in videos], "label": [0, 1, 2, 0, 0]}  # the last one is green
      table = datasets.Dataset.from_dict(columns).with_transform(decode)
      self.dataset, self.data_loaded = datasets.DatasetDict({"test": table}), True

    def get_candidate_labels(self):
      return [f"a video of {colour}" for colour in COLOURS]

  encoder = mteb_adapter.MtebEncoder(FakeModel(), "tests/fake")
  assert isinstance(encoder, EncoderProtocol)
  result = mteb.evaluate(encoder, Colours(), cache=None, show_progress_bar=False)
  (scores,) = result.task_results[0].scores["test"]
  assert scores["accuracy"] == pytest.approx(4 / 5)
  assert (result.model_name, result.model_revision) == ("tests/fake", "fake-1")
