"""Order, position, padding and processes of the training batches, on records made up here."""

import dataclasses

import numpy as np
import pytest
import simplejpeg

from clipvip_jax.errors import UserError
from clipvip_jax.input_pipeline.pipeline import Clips, Order, Slots, batches
from clipvip_jax.input_pipeline.tokenizer import WordTokenizer

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
    "source": source,
    "tokenizer": WordTokenizer.train([f"word{i} spoken seen" for i in range(10)], 32),
    "texts": TEXTS,
    "num_frames": 3,
    "image_size": 8,
    "text_length": 5,
    "jitter_seed": 7,
    "middle_frame": True,
  }
  return Clips(**{**fields, **overrides})


def collect(order, num_steps, **kwargs):
  return list(batches(clips(records()), order, num_steps=num_steps, **kwargs))


def assert_same(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert set(a) == set(b)
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_every_record_is_seen_once_an_epoch_in_another_order():
  order = Order(10, 4, seed=0)
  seen = np.array([batch["record"] for batch in collect(order, 6)]).reshape(2, 12)
  for epoch in seen:
    assert sorted(epoch[epoch >= 0]) == list(range(10))
    assert list(epoch[10:]) == [-1, -1], "the last batch is padded, not dropped"
  assert list(seen[0]) != list(seen[1])
  assert list(seen[0][:10]) != list(range(10))


def test_padding_is_zeros_that_every_mask_leaves_out():
  last = collect(Order(10, 4, seed=0), 3)[-1]
  padding = last["record"] < 0
  assert padding.tolist() == [False, False, True, True]
  assert not last["video"][padding].any() and not last["frame"][padding].any()
  assert not last["subtitle_mask"][padding].any() and not last["caption_mask"][padding].any()


def test_a_missing_text_is_masked_and_nothing_else_is():
  found = collect(Order(10, 5), 2)
  subtitles = np.concatenate([batch["subtitle_mask"] for batch in found])
  captions = np.concatenate([batch["caption_mask"] for batch in found])
  assert np.flatnonzero(~subtitles).tolist() == [3]
  assert np.flatnonzero(~captions).tolist() == [4], "white space is no caption"


@pytest.mark.parametrize("first_step", [0, 1, 2, 3, 5])
def test_going_on_from_a_step_gives_the_same_batches(first_step):
  order = Order(10, 4, seed=3)
  assert_same(collect(order, 6)[first_step:], collect(order, 6, first_step=first_step))


def test_worker_processes_give_the_same_batches():
  order = Order(10, 4, seed=3)
  assert_same(collect(order, 5), collect(order, 5, num_workers=2))


def test_two_processes_share_every_global_batch():
  order = Order(10, 4, seed=3)
  halves = [collect(order, 5, process=(i, 2)) for i in range(2)]
  joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
  assert_same(collect(order, 5), joined)


def test_frames_are_jittered_by_seed_epoch_and_record_alone():
  one = clips(records(frames=20))
  assert_same([one((0, 2)), one((1, 2))], [one((0, 2)), one((1, 2))])
  videos = [one((epoch, 2))["video"] for epoch in range(8)]
  assert len({video.tobytes() for video in videos}) > 1
  other = dataclasses.replace(one, jitter_seed=8)
  assert any(not np.array_equal(one((e, 2))["video"], other((e, 2))["video"]) for e in range(8))


def test_evaluation_takes_evenly_spread_frames_and_the_middle_frame_is_the_middle():
  one = clips(records(), jitter_seed=None)((0, 2))
  values = one["video"][:, 0, 0, 0]
  jittered = clips(records())
  grey = [jittered._pixels(records()[2]["frames"][j], "x")[0, 0, 0] for j in range(7)]
  np.testing.assert_allclose(values, [grey[0], grey[3], grey[6]], atol=1e-6)
  np.testing.assert_allclose(one["frame"][0, 0, 0], grey[3], atol=1e-6)


def test_a_damaged_record_is_named():
  source = records()
  source[2]["frames"][0] = source[2]["frames"][0][:100]
  with pytest.raises(UserError, match="clip2"):
    clips(source, jitter_seed=None)((0, 2))
  source[2]["frames"] = []
  with pytest.raises(UserError, match=r"clip2 has no frames"):
    clips(source)((0, 2))


def test_a_batch_that_the_processes_cannot_share_is_refused():
  with pytest.raises(UserError, match="3 processes"):
    collect(Order(10, 4), 1, process=(0, 3))


def test_slots_know_how_many_are_left():
  assert len(Slots(Order(10, 4), 1, 3)) == 8
  assert len(Slots(Order(10, 4), 5, 3)) == 0
