"""Order, position, padding and processes of the training batches, on records made up here."""

import dataclasses
import itertools

import numpy as np
import pytest
import simplejpeg

from clipvip_jax.input_pipeline import preprocessing
from clipvip_jax.input_pipeline.batching import ClipBatcher, RecordKey
from clipvip_jax.input_pipeline.pipeline import BatchTasks, RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer
from clipvip_jax.utils.errors import UserError

TEXTS = {"subtitle": "subtitle", "caption": "caption"}


def records(count=10, frames=7):
  """Frame j of record i has the grey value 10 i + j."""

  def jpeg(value):
    return simplejpeg.encode_jpeg(np.full((16, 16, 3), value, np.uint8), quality=95)

  return [
    {
      "id": f"clip{i}".encode(),
      "frames": [jpeg(10 * i + j) for j in range(frames)],
      "subtitle": b"" if i == 3 else f"word{i} spoken".encode(),
      "caption": b" " if i == 4 else f"word{i} seen".encode(),
    }
    for i in range(count)
  ]


def clips(source, **overrides):
  fields = {
    "records": source,
    "tokenizer": WordTokenizer.train([f"word{i} spoken seen" for i in range(10)], 32),
    "text_fields": TEXTS,
    "num_frames": 3,
    "image_size": 8,
    "text_length": 5,
    "jitter_seed": 7,
    "middle_frame": True,
  }
  return ClipBatcher(**{**fields, **overrides})


def collect(order, num_steps, **kwargs):
  return list(iterate_batches([WeightedStream(clips(records()), order)], num_steps=num_steps, **kwargs))


def assert_same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert set(a) == set(b)
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_every_record_is_seen_once_an_epoch_in_another_order():
  order = RecordSampler(10, 4, seed=0)
  seen = np.array([batch["record"] for batch in collect(order, 6)]).reshape(2, 12)
  for epoch in seen:
    assert sorted(epoch[epoch >= 0]) == list(range(10))
    assert list(epoch[10:]) == [-1, -1], "the last batch is padded, not dropped"
  assert list(seen[0]) != list(seen[1])
  assert list(seen[0][:10]) != list(range(10))


def shown(count, seed):
  """Records of an epoch over `count` of a hundred."""
  order = RecordSampler(count, 10, seed=seed, subset_of=100)
  return [record for step in range(order.steps_per_epoch) for _, record in order.keys(step, 0, 10) if record >= 0]


def test_subsets_grow_are_random_and_the_same_for_every_seed():
  subsets = {count: shown(count, 0) for count in (3, 15, 60, 100)}
  for smaller, larger in itertools.pairwise(subsets.values()):
    assert set(smaller) < set(larger)
  for count, records in subsets.items():
    assert len(set(records)) == len(records) == count
    assert set(shown(count, 1)) == set(records) and (count == 3 or shown(count, 1) != records)
  assert max(subsets[15]) > 60 and subsets[60] != sorted(subsets[60])
  assert shown(100, 4) == [
    record for step in range(10) for _, record in RecordSampler(100, 10, seed=4).keys(step, 0, 10)
  ]


def test_padding_is_zeros_that_every_mask_leaves_out():
  last = collect(RecordSampler(10, 4, seed=0), 3)[-1]
  padding = last["record"] < 0
  assert padding.tolist() == [False, False, True, True]
  assert not last["video"][padding].any() and not last["frame"][padding].any()
  assert not last["subtitle_mask"][padding].any() and not last["caption_mask"][padding].any()


def test_a_missing_text_is_masked_and_nothing_else_is():
  found = collect(RecordSampler(10, 5), 2)
  subtitles = np.concatenate([batch["subtitle_mask"] for batch in found])
  captions = np.concatenate([batch["caption_mask"] for batch in found])
  assert np.flatnonzero(~subtitles).tolist() == [3]
  assert np.flatnonzero(~captions).tolist() == [4], "white space is no caption"


def mix():
  """Clips with both texts, clips with one, and single frames with one, of different numbers and sizes."""
  images = [{**record, "frames": record["frames"][:1]} for record in records(7)]
  return [
    WeightedStream(clips(records(10)), RecordSampler(10, 4, seed=3), 2.0),
    WeightedStream(
      clips(records(9), text_fields={"subtitle": "subtitle", "caption": ""}, jitter_seed=8), RecordSampler(9, 4, seed=4)
    ),
    WeightedStream(
      clips(images, text_fields={"subtitle": "", "caption": "caption"}, num_frames=1), RecordSampler(7, 4, seed=5)
    ),
  ]


SOURCES = {"one source": lambda: [WeightedStream(clips(records()), RecordSampler(10, 4, seed=3))], "a mix": mix}
STEPS = 24  # two epochs of each source and more


@pytest.fixture(scope="module", params=SOURCES)
def sources(request):
  return SOURCES[request.param]()


@pytest.fixture(scope="module")
def expected(sources):
  return list(iterate_batches(sources, num_steps=STEPS))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_batches(sources, expected, num_workers):
  assert_same(expected, list(iterate_batches(sources, num_steps=STEPS, num_workers=num_workers)))


def test_going_on_from_any_step_gives_the_same_batches(sources, expected):
  for first_step in np.random.default_rng(0).integers(STEPS + 1, size=20).tolist():
    assert_same(expected[first_step:], list(iterate_batches(sources, num_steps=STEPS, first_step=first_step)))


def test_going_on_with_workers_gives_the_same_batches(sources, expected):
  assert_same(expected[5:], list(iterate_batches(sources, num_steps=STEPS, first_step=5, num_workers=2)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_share_every_global_batch(sources, expected, num_workers):
  options = {"num_steps": STEPS, "num_workers": num_workers}
  halves = [list(iterate_batches(sources, shard=(i, 2), **options)) for i in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
  assert_same(expected, joined)


def test_going_from_one_process_to_two_goes_on_with_the_same_batches(sources, expected):
  halves = [list(iterate_batches(sources, num_steps=STEPS, first_step=7, shard=(i, 2))) for i in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
  assert_same(expected[7:], joined)


def test_every_record_of_every_source_is_seen_once_an_epoch(sources, expected):
  seen = {i: [] for i in range(len(sources))}
  for batch in expected:
    assert len(set(batch["stream"].tolist())) == 1, "a batch is of one source"
    seen[batch["stream"][0]].append(batch["record"])
  for i, found in seen.items():
    order = sources[i].sampler
    for epoch in range(len(found) // order.steps_per_epoch):
      epoch = np.concatenate(found[epoch * order.steps_per_epoch :][: order.steps_per_epoch])
      assert sorted(epoch[epoch >= 0]) == list(range(order.num_records))
      assert np.count_nonzero(epoch < 0) == order.steps_per_epoch * order.batch_size - order.num_records
  assert all(len(found) >= 2 * sources[i].sampler.steps_per_epoch for i, found in seen.items())


def test_a_source_without_a_text_masks_it_and_an_image_is_a_video_of_one_frame():
  found = {batch["stream"][0]: batch for batch in iterate_batches(mix(), num_steps=4)}
  both, video, image = (found[i] for i in range(3))
  assert both["subtitle_mask"].any() and both["caption_mask"].any()
  assert video["subtitle_mask"].any() and not video["caption_mask"].any()
  assert image["caption_mask"].any() and not image["subtitle_mask"].any()
  assert image["video"].shape == (4, 1, 8, 8, 3) and video["video"].shape == (4, 3, 8, 8, 3)
  np.testing.assert_array_equal(image["video"][:, 0], image["frame"])


def test_of_several_texts_one_is_drawn_by_seed_epoch_and_record_alone():
  several = [{**record, "subtitle": [f"word{j}" for j in range(4)]} for record in records()]
  slots = [RecordKey(epoch, index) for epoch in range(10) for index in range(10)]
  found, again = clips(several).batch(slots), clips(several).batch(slots[::-1])
  assert_same([found], [{key: value[::-1] for key, value in again.items()}])
  drawn = found["subtitle"].reshape(10, 10, -1)
  assert len(np.unique(drawn.reshape(100, -1), axis=0)) == 4, "all of them are seen"
  assert any(len(np.unique(drawn[:, i], axis=0)) > 1 for i in range(10)), "another one in another epoch"
  np.testing.assert_array_equal(found["video"], clips(records()).batch(slots)["video"], "frames do not depend on it")
  np.testing.assert_array_equal(found["caption"], clips(records()).batch(slots)["caption"])
  first = clips(several, jitter_seed=None).batch(slots)["subtitle"]
  assert len(np.unique(first, axis=0)) == 1, "evaluation takes the first"


def test_frames_are_jittered_by_seed_epoch_and_record_alone():
  one = clips(records(frames=20))
  assert_same([one.batch([RecordKey(0, 2), RecordKey(1, 2)])], [one.batch([RecordKey(0, 2), RecordKey(1, 2)])])
  videos = one.batch([RecordKey(epoch, 2) for epoch in range(8)])["video"]
  assert len({video.tobytes() for video in videos}) > 1
  other = dataclasses.replace(one, jitter_seed=8)
  assert not np.array_equal(videos, other.batch([RecordKey(epoch, 2) for epoch in range(8)])["video"])


def test_evaluation_takes_evenly_spread_frames_and_the_middle_frame_is_the_middle():
  one = clips(records(), jitter_seed=None).batch([RecordKey(0, 2)])
  values = one["video"][0, :, 0, 0, 0]
  grey = [
    preprocessing.resize_normalize(preprocessing.decode_jpeg(jpeg), 8)[0, 0, 0] for jpeg in records()[2]["frames"]
  ]
  np.testing.assert_allclose(values, [grey[0], grey[3], grey[6]], atol=1e-6)
  np.testing.assert_allclose(one["frame"][0, 0, 0, 0], grey[3], atol=1e-6)


def test_a_damaged_record_is_named():
  source = records()
  source[2]["frames"][0] = source[2]["frames"][0][:100]
  with pytest.raises(UserError, match="clip2"):
    clips(source, jitter_seed=None).batch([RecordKey(0, 2)])
  source[2]["frames"] = []
  with pytest.raises(UserError, match=r"clip2 has no frames"):
    clips(source).batch([RecordKey(0, 2)])


def test_a_batch_that_the_processes_cannot_share_is_refused():
  with pytest.raises(UserError, match="3 shares"):
    collect(RecordSampler(10, 4), 1, shard=(0, 3))


def test_tasks_know_how_many_are_left():
  source = [WeightedStream(clips(records()), RecordSampler(10, 4))]
  assert len(BatchTasks(source, 1, 3)) == 2
  assert len(BatchTasks(source, 5, 3)) == 0
