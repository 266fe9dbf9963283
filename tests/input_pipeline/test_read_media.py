"""Reading videos, images, folders of frames and arrays; listing videos; prefetching in threads."""

import itertools
import os
import struct
import threading
import time
import weakref
import zlib

import corpora
import cv2
import numpy as np
import pytest
from videos import decode_video

from clipvip_jax.data.engine.frame_extraction import FrameSettings, extract_frames
from clipvip_jax.input_pipeline import frame_sampling, image_files, jpeg_decoder, preprocessing, read_media
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.video_decoder import iterate_pictures
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.utils.errors import UserError


def noise(count=20, height=48, width=64, seed=0):
  picture = np.random.default_rng(seed).integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
  return picture.repeat(8, 1).repeat(8, 2)


@pytest.fixture
def video(tmp_path):
  path = tmp_path / "clip.mp4"
  encode_h264(path, noise(), fps=12)
  return path


@pytest.mark.parametrize("count", [1, 6, 12, 33])
def test_a_video_file_gives_evenly_spaced_frames(video, count):
  expected = decode_video(video)[frame_sampling.uniform_frames(20, count)]
  np.testing.assert_array_equal(np.stack(read_media.read_frames(video, count)), expected)
  np.testing.assert_array_equal(np.stack(read_media.read_frames(str(video), count)), expected)


def test_pixels_equal_the_training_preprocessing(video):
  array = noise(3)
  expected = np.stack([preprocessing.resize_normalize(frame, 32) for frame in array])
  np.testing.assert_array_equal(read_media.read_clip(array, 3, 32), expected)
  assert read_media.read_clip(array[0], 4, 32).shape == (4, 32, 32, 3)
  cropped = np.stack([preprocessing.resize_normalize(frame, 32, crop="center") for frame in array])
  np.testing.assert_array_equal(read_media.read_clip(array, 3, 32, "center"), cropped)


def test_wrong_times_of_packets_are_corrected_by_decoding_again(video, monkeypatch):
  expected = read_media.read_frames(video, 6)
  for wrong in ([], [0.0] * 7, [k / 12 for k in range(90)], [k**3 / 100 for k in range(20)]):
    monkeypatch.setattr(read_media, "frame_times", lambda path, wrong=wrong: wrong)
    np.testing.assert_array_equal(read_media.read_frames(video, 6), expected)


@pytest.mark.parametrize("shape", ["dense at first", "dense at last", "long last frame"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_variable_rate_is_sampled_as_from_a_corpus(tmp_path, shape, suffix):
  times = {
    "dense at first": [*(k / 40 for k in range(40)), *range(1, 10)],
    "dense at last": [*range(9), *(9 + k / 40 for k in range(40))],
    "long last frame": [0, 0.5, 1, 1.5, 4, 5, 9.5],
  }[shape]
  grey = np.stack([np.full((32, 32, 3), 5 * i, np.uint8) for i in range(len(times))])
  path = corpora.encode(tmp_path / f"vfr{suffix}", grey, "libx264", times=times, qp="0")
  sampled = [round(frame.mean() / 5) for frame in read_media.read_frames(path, 12)]

  def stored(count=12, **settings):
    jpegs = extract_frames(str(path), FrameSettings(short_side=0, **settings), iterate_pictures)
    frames = [jpeg_decoder.decode_jpeg(jpegs[k]) for k in frame_sampling.uniform_frames(len(jpegs), count)]
    return [round(frame.mean() / 5) for frame in frames]

  assert sampled == stored(fps=3) == stored(frames=12)
  begins = np.array([times[i] for i in sampled])
  assert np.abs(begins - np.linspace(0, times[-1], 12)).max() <= 0.34 + max(np.diff(times)), "spread over all of it"


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path):
  for index in range(12):
    cv2.imwrite(str(tmp_path / f"frame_{index}.png"), np.full((8, 8, 3), 10 * index, np.uint8))
  (tmp_path / "notes.txt").write_text("x")
  (tmp_path / ".hidden.png").write_bytes(b"x")
  assert [int(frame[0, 0, 0]) for frame in read_media.read_frames(tmp_path, 12)] == [10 * i for i in range(12)]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".JPG"])
def test_an_image_is_a_clip_of_one_frame(tmp_path, suffix):
  path = tmp_path / f"image{suffix}"
  ok, data = cv2.imencode(suffix.lower(), np.full((20, 30, 3), (10, 100, 200), np.uint8))
  assert ok
  path.write_bytes(data)
  (frame,) = read_media.read_frames(path, 1)
  assert frame.shape == (20, 30, 3) and np.abs(frame.astype(int) - (200, 100, 10)).max() < 6, "RGB order"
  assert len(read_media.read_frames(path, 5)) == 5


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("none.mp4", None, "no such file"),
    ("empty.mp4", b"", "empty"),
    ("text.mp4", b"<html>", "not a video"),
    ("text.png", b"<html>", "not a valid JPEG, PNG"),
    ("empty.png", b"", "not a valid JPEG, PNG"),
    ("text.jpg", b"<html>", "not a valid JPEG"),
    ("none.jpg", None, "no such file"),
  ],
)
def test_unreadable_files_are_rejected_by_name(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message) as caught:
    read_media.read_frames(tmp_path / name, 4)
  assert name in str(caught.value)


def test_a_truncated_video_is_rejected(video):
  video.write_bytes(video.read_bytes()[:-2000])
  with pytest.raises(UserError, match=r"clip\.mp4"):
    read_media.read_frames(video, 4)


@pytest.mark.parametrize(
  "array", [np.zeros((4, 8, 8, 3)), np.zeros((4, 8, 8), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_unsuitable_arrays_are_rejected(array):
  with pytest.raises(UserError, match=r"expected a uint8 array \[T, H, W, 3\] as video, got (uint8|float64) \["):
    read_media.read_frames(array, 4)


def test_an_empty_folder_and_a_number_are_rejected(tmp_path):
  with pytest.raises(UserError, match="holds no frames"):
    read_media.read_frames(tmp_path, 4)
  with pytest.raises(UserError, match=r"expected a path or a uint8 array .* as video, got int"):
    read_media.read_frames(3, 4)


def test_map_in_threads_keeps_the_order_prefetches_and_yields_errors():
  started, threads = [], {*threading.enumerate()}

  def read(item):
    started.append(item)
    time.sleep(0.02 if item == 0 else 0)
    if item == 3:
      raise MediaError("three", "corrupt")
    if item == 5:
      raise UserError("the bucket cannot be reached")
    return 10 * item

  found = read_media.map_in_threads(range(100), read, threads=2)
  assert next(found) == (0, 0)
  assert len(started) < 20, "prefetching is bounded"
  values = [value for _, value in [next(found) for _ in range(4)]]
  assert values[:2] == [10, 20] and str(values[2]) == "three: corrupt" and values[3] == 40
  with pytest.raises(UserError, match="bucket"):  # says nothing about item 5
    next(found)
  for thread in {*threading.enumerate()} - threads:
    thread.join(30)
  assert len(started) < 20


def test_frames_are_processed_one_at_a_time_and_repeated_frames_once(video, monkeypatch):
  alive, most, calls = [0], [0], [0]
  original = preprocessing.resize_normalize

  def resize(frame, **options):
    calls[0] += 1
    return original(frame, **options)

  monkeypatch.setattr(read_media.preprocessing, "resize_normalize", resize)
  pictures = read_media.iterate_pictures

  def counted(path):
    for picture in pictures(path):

      def converted(picture=picture):
        frame = np.array(picture.rgb())
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(frame, lambda: alive.__setitem__(0, alive[0] - 1))
        return frame

      yield picture._replace(rgb=converted)

  monkeypatch.setattr(read_media, "iterate_pictures", counted)
  assert read_media.read_clip(video, 12, 16).shape == (12, 16, 16, 3)
  assert most[0] <= 2 and calls[0] == 12
  read_media.read_clip(noise(1), 5, 16)
  assert calls[0] == 13
  assert len({id(frame) for frame in read_media.read_frames(noise(2), 6)}) == 2


def test_a_file_that_is_still_being_written_is_rejected(video, monkeypatch):
  lengths = iter((5, 7))
  pictures = read_media.iterate_pictures
  monkeypatch.setattr(read_media, "iterate_pictures", lambda path: itertools.islice(pictures(path), next(lengths)))
  with pytest.raises(MediaError, match="still being written"):
    read_media.read_frames(video, 4)


def png_header(width, height):
  """Returns a PNG whose header claims a size that its data does not have."""
  chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99))))
  parts = (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_hostile_files_and_names_raise_a_media_error(tmp_path):
  (tmp_path / "huge.png").write_bytes(png_header(60000, 60000))
  for name in (str(tmp_path / "huge.png"), "x" * 300 + ".mp4", "nul\0.png", "nul\0.mp4"):
    with pytest.raises(MediaError):
      read_media.read_frames(name, 2)


def test_file_names_need_not_be_ascii_or_utf_8(video, tmp_path):
  frame = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
  (tmp_path / "frames").mkdir()
  for name in ("1²2.png", "٣.png", "a.png", "01.png", "1.png"):
    (tmp_path / "frames" / name).write_bytes(frame)
  names = [path.name for path in image_files.list_images(tmp_path / "frames")]
  assert names == ["01.png", "1.png", "1²2.png", "a.png", "٣.png"]
  latin = tmp_path / os.fsdecode(b"caf\xe9.mp4")
  latin.write_bytes(video.read_bytes())
  assert len(read_media.read_frames(latin, 3)) == 3


def test_zero_threads_means_one():
  assert list(read_media.map_in_threads([1, 2], lambda item: -item, threads=0)) == [(1, -1), (2, -2)]


@pytest.mark.parametrize(
  ("times", "expected"),
  [
    ((None, None), range(20)),
    ((0.5, None), range(6, 20)),
    ((None, 0.5), range(6)),
    ((0.5, 1.0), range(6, 12)),
    ((0.55, 0.95), range(6, 12)),  # the frame that is displayed at the start began before
    ((1.0, 90.0), range(12, 20)),
  ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_of_a_video_gives_the_frames_displayed_in_it(tmp_path, times, expected, suffix):
  grey = np.stack([np.full((32, 32, 3), 10 * i, np.uint8) for i in range(20)])
  path = corpora.encode(tmp_path / f"part{suffix}", grey, "libx264", qp="0", times=[i / 12 for i in range(20)])
  clip = read_media.read_clip(path, len(expected), 32, times=times)
  every = np.stack([preprocessing.resize_normalize(frame, 32) for frame in decode_video(path)])
  np.testing.assert_array_equal(clip, every[list(expected)])


@pytest.mark.parametrize("times", [(0.4, 1.3), (0.55, None), (None, 1.2)])
def test_a_part_is_sampled_as_from_a_corpus(tmp_path, times):
  begins = [*(i / 12 for i in range(12)), *(1 + i / 30 for i in range(12))]  # of a variable rate
  grey = np.stack([np.full((32, 32, 3), 10 * i, np.uint8) for i in range(24)])
  path = corpora.encode(tmp_path / "part.mkv", grey, "libx264", qp="0", times=begins)
  jpegs = extract_frames(str(path), FrameSettings(short_side=0, frames=5), iterate_pictures, *times)
  stored = [round(jpeg_decoder.decode_jpeg(jpeg).mean() / 10) for jpeg in jpegs]
  every = [preprocessing.resize_normalize(frame, 32) for frame in decode_video(path)]
  expected = np.stack([every[index] for index in stored])
  np.testing.assert_array_equal(read_media.read_clip(path, 5, 32, times=times), expected)


def test_parts_of_what_has_no_times_and_parts_after_the_end_are_rejected(tmp_path, video):
  with pytest.raises(MediaError, match=r"clip\.mp4: start=9 is after the end of the video"):
    read_media.read_clip(video, 4, 32, times=(9, None))
  cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
  for path in (tmp_path / "a.png", tmp_path):
    with pytest.raises(MediaError, match="start and end do not apply to images and folders of frames"):
      read_media.read_clip(path, 4, 32, times=(None, 3))


def test_a_part_of_a_file_that_was_replaced_is_read_anew(tmp_path):
  path = tmp_path / "v.mp4"
  for level in (60, 180):
    encode_h264(path, np.full((level // 10, 16, 16, 3), level, np.uint8), fps=4)
    (frame,) = {id(frame): frame for frame in read_media.read_frames(path, 1, (0.5, 1.0))}.values()
    assert abs(frame.mean() - level) < 4 and read_media.video_seconds(path) == (0.0, level / 40)


def test_seconds_of_what_has_no_times(tmp_path):
  (tmp_path / "folder").mkdir()
  image = tmp_path / "folder" / "1.png"
  cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
  assert read_media.video_seconds(image) is None and read_media.video_seconds(image.parent) is None
  (tmp_path / "bad.mp4").write_bytes(b"<html>")
  for name in ("bad.mp4", "none.mp4"):
    with pytest.raises(UserError, match=name):
      read_media.video_seconds(tmp_path / name)
