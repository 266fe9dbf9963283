"""Batches of engines that describe several frames in one call."""

from caption_endpoint import picture

from clipvip_jax.captioning.engine import Answer, run_in_batches
from clipvip_jax.input_pipeline.image_files import decode_image


def test_every_frame_is_described_once_in_batches():
  sizes, answers = [], {}

  def describe(frames):
    sizes.append(len(frames))
    return [Answer(str(frame[0, 0].tolist())) for frame in frames]

  run_in_batches(iter((i, picture(i)) for i in range(7)), 3, describe, answers.__setitem__)
  assert sizes == [3, 3, 1]
  assert answers == {i: Answer(str(decode_image(picture(i))[0, 0].tolist())) for i in range(7)}
