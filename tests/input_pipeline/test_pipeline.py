"""The order of records, mixing, resuming, and sharding over hosts and worker processes."""

import itertools

import numpy as np
import pytest
from clip_records import assert_same_batches, make_batcher, make_records

from clipvip_jax.input_pipeline.batching import PADDING
from clipvip_jax.input_pipeline.pipeline import BatchTasks, RecordSampler, WeightedStream, iterate_batches
from clipvip_jax.utils.errors import UserError

NUM_STEPS = 24  # at least two epochs of each stream


def one_stream():
  return [WeightedStream(make_batcher(make_records()), RecordSampler(10, 4, seed=3))]


def mixture():
  """Returns streams of clips with both texts, clips with subtitles, and images with captions."""
  images = [{**record, "frames": record["frames"][:1]} for record in make_records(7)]
  both = make_batcher(make_records(10))
  subtitles = make_batcher(make_records(9), text_fields={"subtitle": "subtitle", "caption": ""}, jitter_seed=8)
  captions = make_batcher(images, text_fields={"subtitle": "", "caption": "caption"}, num_frames=1)
  return [
    WeightedStream(both, RecordSampler(10, 4, seed=3), 2.0),
    WeightedStream(subtitles, RecordSampler(9, 4, seed=4)),
    WeightedStream(captions, RecordSampler(7, 4, seed=5)),
  ]


@pytest.fixture(scope="module", params=[one_stream, mixture])
def streams(request):
  return request.param()


@pytest.fixture(scope="module")
def expected(streams):
  return list(iterate_batches(streams, num_steps=NUM_STEPS))


def epoch_records(sampler, epoch=0):
  """Returns the records of an epoch, with padding."""
  first = epoch * sampler.steps_per_epoch
  keys = [key for i in range(sampler.steps_per_epoch) for key in sampler.keys(first + i, 0, sampler.batch_size)]
  assert {key.epoch for key in keys} == {epoch}
  return [key.record for key in keys]


def test_an_epoch_visits_every_record_once_in_a_new_order_and_pads_the_last_batch():
  sampler = RecordSampler(10, 4, seed=0)
  epochs = [epoch_records(sampler, epoch) for epoch in range(2)]
  for records in epochs:
    assert sorted(records[:10]) == list(range(10)) and records[10:] == [PADDING] * 2
  assert epochs[0] != epochs[1] and epochs[0][:10] != list(range(10))


def test_without_a_seed_records_keep_their_order():
  assert epoch_records(RecordSampler(5, 3)) == [0, 1, 2, 3, 4, PADDING]


def test_subsets_are_random_nested_and_independent_of_the_seed():
  def subset(count, seed=0):
    return epoch_records(RecordSampler(count, 1, seed=seed, subset_of=100))

  subsets = {count: subset(count) for count in (3, 15, 60, 100)}
  for smaller, larger in itertools.pairwise(subsets.values()):
    assert set(smaller) < set(larger)
  for count, records in subsets.items():
    assert len(set(records)) == len(records) == count
    assert set(subset(count, seed=1)) == set(records) and (count == 3 or subset(count, seed=1) != records)
  assert max(subsets[15]) > 60 and subsets[60] != sorted(subsets[60])
  assert subset(100, seed=4) == epoch_records(RecordSampler(100, 1, seed=4)), "the complete set is not permuted again"


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(streams, expected, num_workers):
  assert_same_batches(expected, list(iterate_batches(streams, num_steps=NUM_STEPS, num_workers=num_workers)))


def test_uint8_batches_do_not_depend_on_workers():
  batcher = make_batcher(make_records(), pixels="uint8")
  stream = WeightedStream(batcher, RecordSampler(10, 4, seed=3))
  batches, from_workers = (list(iterate_batches([stream], num_steps=6, num_workers=n)) for n in (0, 2))
  assert batches[0]["video"].dtype == np.uint8 and batches[0]["frame"].any()
  assert_same_batches(batches, from_workers)


@pytest.mark.slow
def test_resuming_from_any_step_gives_the_same_batches(streams, expected):
  for first_step in np.random.default_rng(0).integers(NUM_STEPS + 1, size=20).tolist():
    resumed = iterate_batches(streams, num_steps=NUM_STEPS, first_step=first_step)
    assert_same_batches(expected[first_step:], list(resumed))


def test_resuming_with_workers_gives_the_same_batches(streams, expected):
  resumed = iterate_batches(streams, num_steps=NUM_STEPS, first_step=5, num_workers=2)
  assert_same_batches(expected[5:], list(resumed))


@pytest.mark.slow
@pytest.mark.parametrize(("first_step", "num_workers"), [(0, 0), (0, 2), (7, 0)])
def test_shards_concatenate_to_the_global_batches(streams, expected, first_step, num_workers):
  options = {"num_steps": NUM_STEPS, "first_step": first_step, "num_workers": num_workers}
  shards = [list(iterate_batches(streams, shard=(i, 2), **options)) for i in range(2)]
  joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*shards, strict=True)]
  assert_same_batches(expected[first_step:], joined)


def test_every_stream_visits_its_records_once_per_epoch(streams, expected):
  records = {i: [] for i in range(len(streams))}
  for batch in expected:
    assert len(set(batch["stream"].tolist())) == 1, "a batch is of one stream"
    records[batch["stream"][0]].append(batch["record"])
  for i, batches in records.items():
    sampler = streams[i].sampler
    assert len(batches) >= 2 * sampler.steps_per_epoch
    for epoch in range(len(batches) // sampler.steps_per_epoch):
      visited = np.concatenate(batches[epoch * sampler.steps_per_epoch :][: sampler.steps_per_epoch])
      assert sorted(visited[visited != PADDING]) == list(range(sampler.num_records))
      num_padding = sampler.steps_per_epoch * sampler.batch_size - sampler.num_records
      assert np.count_nonzero(visited == PADDING) == num_padding


def test_streams_of_a_mixture_may_have_different_texts_and_frames():
  batches = {batch["stream"][0]: batch for batch in iterate_batches(mixture(), num_steps=4)}
  both, subtitles, captions = (batches[i] for i in range(3))
  assert both["subtitle_mask"].any() and both["caption_mask"].any()
  assert subtitles["subtitle_mask"].any() and not subtitles["caption_mask"].any()
  assert captions["caption_mask"].any() and not captions["subtitle_mask"].any()
  assert captions["video"].shape == (4, 1, 8, 8, 3) and subtitles["video"].shape == (4, 3, 8, 8, 3)


def test_a_batch_size_that_is_not_divisible_by_the_shards_is_rejected():
  with pytest.raises(UserError, match="batch size of 4 is not divisible by 3 shards; use a multiple of 3"):
    iterate_batches(one_stream(), num_steps=1, shard=(0, 3))


def test_the_number_of_tasks_is_that_of_the_remaining_steps():
  assert len(BatchTasks(one_stream(), 1, 3)) == 2
  assert len(BatchTasks(one_stream(), 5, 3)) == 0
