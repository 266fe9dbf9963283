"""Batches: sampled frames and texts, masks of missing texts, padding, corrupt records."""

import dataclasses

import numpy as np
import pytest
import simplejpeg
from clip_records import assert_same_batches, make_batcher, make_records

from clipvip_jax.input_pipeline import jpeg_decoder, preprocessing
from clipvip_jax.input_pipeline.batching import PADDING, RecordKey
from clipvip_jax.utils.errors import UserError


def test_batches_have_the_shapes_and_dtypes_of_the_spec():
  batcher = make_batcher(make_records())
  spec, batch = batcher.spec(2), batcher.batch([RecordKey(0, 0), RecordKey(0, PADDING)])
  assert {name: (array.shape, array.dtype) for name, array in batch.items()} == dict(spec)
  assert set(spec) == {"video", "frame", "record", "subtitle", "subtitle_mask", "caption", "caption_mask"}
  assert spec["video"].shape == (2, 3, 8, 8, 3)


def test_batches_are_written_into_given_arrays():
  batcher, keys = make_batcher(make_records()), [RecordKey(0, 1), RecordKey(0, PADDING)]
  out = {name: np.ones(*spec) for name, spec in batcher.spec(2).items()}
  assert batcher.batch(keys, out) is out
  assert_same_batches([out], [batcher.batch(keys)])


def test_padding_examples_are_zeros_with_false_masks():
  batch = make_batcher(make_records()).batch([RecordKey(0, 1), RecordKey(0, PADDING)])
  assert batch["record"].tolist() == [1, PADDING]
  assert batch["subtitle_mask"].tolist() == batch["caption_mask"].tolist() == [True, False]
  assert batch["video"][0].any() and not batch["video"][1].any() and not batch["frame"][1].any()


def test_uint8_batches_have_the_same_frames_in_a_quarter_of_the_memory():
  records, keys = make_records(), [RecordKey(1, 2), RecordKey(0, PADDING), RecordKey(1, 7)]
  exact, batcher = make_batcher(records).batch(keys), make_batcher(records, pixels="uint8")
  batch = batcher.batch(keys)
  assert {name: (array.shape, array.dtype) for name, array in batch.items()} == dict(batcher.spec(3))
  assert not batch["video"][1].any() and not batch["frame"][1].any()
  for name in ("video", "frame"):
    assert 4 * batch[name].nbytes == exact[name].nbytes
    levels = 255 * (exact[name][::2] * preprocessing.STD + preprocessing.MEAN)
    np.testing.assert_allclose(batch[name][::2], levels, atol=1)
  for name in exact.keys() - {"video", "frame"}:
    np.testing.assert_array_equal(batch[name], exact[name])


def test_only_missing_texts_are_masked():
  batch = make_batcher(make_records()).batch([RecordKey(0, index) for index in range(10)])
  assert np.flatnonzero(~batch["subtitle_mask"]).tolist() == [3]
  assert np.flatnonzero(~batch["caption_mask"]).tolist() == [4], "a blank caption is missing"


def test_a_text_without_a_field_is_masked():
  batcher = make_batcher(make_records(), text_fields={"subtitle": "subtitle", "caption": ""})
  batch = batcher.batch([RecordKey(0, 1)])
  assert batch["subtitle_mask"].all() and not batch["caption_mask"].any()


def test_one_of_several_texts_is_sampled_by_seed_epoch_and_record():
  records = [{**record, "subtitle": [f"word{j}" for j in range(4)]} for record in make_records()]
  keys = [RecordKey(epoch, index) for epoch in range(10) for index in range(10)]
  batch, reverse = make_batcher(records).batch(keys), make_batcher(records).batch(keys[::-1])
  assert_same_batches([batch], [{name: value[::-1] for name, value in reverse.items()}])
  subtitles = batch["subtitle"].reshape(10, 10, -1)
  assert len(np.unique(subtitles.reshape(100, -1), axis=0)) == 4, "each text is sampled"
  assert any(len(np.unique(subtitles[:, i], axis=0)) > 1 for i in range(10)), "epochs differ"
  single = make_batcher(make_records()).batch(keys)
  np.testing.assert_array_equal(batch["video"], single["video"], "frames do not depend on texts")
  np.testing.assert_array_equal(batch["caption"], single["caption"])
  without_jitter = make_batcher(records, jitter_seed=None).batch(keys)["subtitle"]
  assert len(np.unique(without_jitter, axis=0)) == 1, "evaluation uses the first text"


def test_frames_are_jittered_by_seed_epoch_and_record():
  batcher = make_batcher(make_records(frames=20))
  keys = [RecordKey(epoch, 2) for epoch in range(8)]
  videos = batcher.batch(keys)["video"]
  np.testing.assert_array_equal(videos, batcher.batch(keys)["video"])
  assert len({video.tobytes() for video in videos}) > 1
  assert not np.array_equal(videos, dataclasses.replace(batcher, jitter_seed=8).batch(keys)["video"])


def test_evaluation_samples_evenly_spaced_frames_and_the_middle_frame():
  batch = make_batcher(make_records(), jitter_seed=None).batch([RecordKey(0, 2)])
  decoded = [jpeg_decoder.decode_jpeg(jpeg) for jpeg in make_records()[2]["frames"]]
  expected = np.stack([preprocessing.resize_normalize(frame, 8) for frame in decoded])
  np.testing.assert_array_equal(batch["video"][0], expected[[0, 3, 6]])
  np.testing.assert_array_equal(batch["frame"][0], expected[3])


def test_frames_are_cropped_in_training_and_evaluation():
  wide = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
  records = [{**make_records()[0], "frames": [simplejpeg.encode_jpeg(wide, colorsubsampling="444")]}]
  frame = jpeg_decoder.decode_jpeg(records[0]["frames"][0])
  for seed in (7, None):
    for crop in preprocessing.CROPS:
      batch = make_batcher(records, jitter_seed=seed, crop=crop).batch([RecordKey(0, 0)])
      expected = preprocessing.resize_normalize(frame, 8, crop=crop)
      np.testing.assert_array_equal(batch["video"][0], [expected] * 3)
      np.testing.assert_array_equal(batch["frame"][0], expected)


def test_an_image_is_a_video_of_one_frame():
  images = [{**record, "frames": record["frames"][:1]} for record in make_records()]
  batch = make_batcher(images, num_frames=1).batch([RecordKey(0, 5)])
  assert batch["video"].shape == (1, 1, 8, 8, 3)
  np.testing.assert_array_equal(batch["video"][:, 0], batch["frame"])


def test_a_corrupt_record_is_named():
  records = make_records()
  records[2]["frames"][0] = records[2]["frames"][0][:100]
  with pytest.raises(UserError, match=r"a frame of clip2 \(100 bytes\) is not a valid JPEG"):
    make_batcher(records, jitter_seed=None).batch([RecordKey(0, 2)])
  records[2]["frames"] = []
  with pytest.raises(UserError, match="record clip2 has no frames; build the corpus again"):
    make_batcher(records).batch([RecordKey(0, 2)])
