"""Frames to RGB: orientation, transparency, HDR."""

import gc
import struct

import av
import numpy as np
import pytest
from videos import decode_video

from clipvip_jax.input_pipeline.frame_conversion import FrameConverter
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.input_pipeline.video_encoder import encode_h264

QUADRANTS = np.zeros((64, 96, 3), np.uint8)
QUADRANTS[:32, :48], QUADRANTS[:32, 48:], QUADRANTS[32:, :48] = (250, 10, 10), (10, 250, 10), (10, 10, 250)

# (a, b, c, d) of the display matrix -> what ffmpeg shows (`ffmpeg -i x.mp4`, version 9.0.2, pixel for pixel).
ORIENTATIONS = {
  (1, 0, 0, 1): lambda x: x,
  (-1, 0, 0, 1): lambda x: x[:, ::-1],
  (1, 0, 0, -1): lambda x: x[::-1],
  (-1, 0, 0, -1): lambda x: x[::-1, ::-1],
  (0, 1, 1, 0): lambda x: x.transpose(1, 0, 2),
  (0, -1, -1, 0): lambda x: x[::-1, ::-1].transpose(1, 0, 2),
  (0, 1, -1, 0): lambda x: np.rot90(x, -1),
  (0, -1, 1, 0): lambda x: np.rot90(x),
  (2, 0, 0, -2): lambda x: x[::-1],
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_orientations_of_the_display_matrix_are_applied(tmp_path, matrix):
  path = tmp_path / "x.mp4"
  encode_h264(path, np.stack([QUADRANTS] * 2), 10, quantiser=5)
  stored = decode_video(path)[0]
  a, b, c, d = (value << 16 for value in matrix)
  content = path.read_bytes()
  place = content.index(b"tkhd") + 44
  content = content[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[place + 36 :]
  path.write_bytes(content)
  np.testing.assert_array_equal(decode_video(path)[0], ORIENTATIONS[matrix](stored))


@pytest.mark.parametrize("degrees", [90, 180])
def test_an_orientation_that_only_key_frames_store_is_that_of_all_frames(tmp_path, degrees):
  plain, path = tmp_path / "plain.mp4", tmp_path / "x.mp4"
  encode_h264(plain, np.stack([QUADRANTS] * 3), 10, quantiser=5)
  with av.open(str(plain)) as source, av.open(str(path), "w") as target:
    stream = target.add_stream_from_template(source.streams.video[0])
    options = f"h264_metadata=display_orientation=insert:rotate={degrees}"
    insert = av.bitstream.BitStreamFilterContext(options, source.streams.video[0])
    for packet in source.demux(video=0):
      for changed in insert.filter(packet if packet.size else None):
        changed.stream = stream
        target.mux(changed)
  expected = np.rot90(decode_video(plain), degrees // 90, axes=(1, 2))
  np.testing.assert_array_equal(decode_video(path), expected)


def hdr_frame(luma, transfer):
  """Returns a 10-bit BT.2020 frame of one grey."""
  frame = av.VideoFrame(64, 64, "yuv420p10le")
  for plane, value in zip(frame.planes, (luma, 512, 512), strict=True):
    plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
  frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 1, 9, transfer
  return frame


@pytest.mark.parametrize(("transfer", "luma"), [(16, 573), (18, 721)], ids=["pq", "hlg"])
def test_hdr_is_tone_mapped_and_noted(transfer, luma):
  """The luma is that of reference white, 203 cd/m2 (ITU-R BT.2408)."""
  with collect_notes() as notes:
    picture = FrameConverter(64, 64).to_rgb(hdr_frame(luma, transfer))
  assert notes == {"hdr"} and picture.shape == (64, 64, 3) and picture.dtype == np.uint8
  np.testing.assert_allclose(picture.astype(int), 217, atol=1)


def test_an_hdr_file_is_tone_mapped(tmp_path):
  path = tmp_path / "x.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx265", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
    stream.options = {
      "x265-params": "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc:pools=none"
    }
    for _ in range(3):
      container.mux(stream.encode(hdr_frame(721, 18)))
    container.mux(stream.encode())
  with collect_notes() as notes:
    frames = decode_video(path)
  assert notes == {"hdr"} and abs(frames.mean() - 217) < 2


def test_ten_bit_sdr_is_not_tone_mapped():
  frame = hdr_frame(721, 1)
  with collect_notes() as notes:
    picture = FrameConverter(64, 64).to_rgb(frame)
  assert not notes
  # 217 if it were tone-mapped
  np.testing.assert_allclose(picture.astype(int), 255 * (721 - 64) / 876, atol=3)


HALF = np.zeros((48, 64, 4), np.uint8)  # red, of which the left half is opaque and the next eighth half so
HALF[..., 0], HALF[:, :32, 3], HALF[:, 32:40, 3] = 250, 255, 128


@pytest.mark.parametrize(
  ("name", "codec", "pixel_format", "options"),
  [
    ("x.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0", "crf": "4"}),
    ("vp8.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "crf": "4", "b:v": "1M"}),
    ("x.mov", "qtrle", "argb", {}),
    ("x.mkv", "ffv1", "bgra", {}),
  ],
)
def test_transparent_videos_are_composed_on_white(tmp_path, name, codec, pixel_format, options):
  with av.open(str(tmp_path / name), "w") as container:
    stream = container.add_stream(codec, rate=10, options=options)
    stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
    if name.endswith("webm"):
      stream.metadata["alpha_mode"] = "1"
    for _ in range(4):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(HALF, format="rgba").reformat(format=pixel_format)))
    container.mux(stream.encode())
  frames = decode_video(tmp_path / name).astype(int)
  assert len(frames) == 4
  for x, expected in ((8, (250, 0, 0)), (36, (252, 127, 127)), (56, (255, 255, 255))):
    assert np.abs(frames[2, 20, x] - expected).max() < 12, (x, frames[2, 20, x])


@pytest.mark.parametrize(("name", "codec"), [("x.avi", "huffyuv"), ("y.avi", "ffv1"), ("x.mkv", "ffv1")])
def test_alpha_that_capture_programs_leave_empty_is_ignored_in_avi(tmp_path, name, codec):
  with av.open(str(tmp_path / name), "w") as container:
    stream = container.add_stream(codec, rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
    for alpha in (0, 0, 128):
      picture = HALF.copy()
      picture[..., 3] = alpha
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="bgra")))
    container.mux(stream.encode())
  frames = decode_video(tmp_path / name)
  empty = [250, 0, 0] if name.endswith("avi") else [255, 255, 255]
  assert frames[:, 20, 20].tolist() == [empty, empty, [252, 127, 127]]


def test_opaque_frames_with_an_alpha_channel_are_unchanged():
  picture = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)
  picture[..., 3] = 255
  converted = FrameConverter(64, 48).to_rgb(av.VideoFrame.from_ndarray(picture, format="rgba"))
  np.testing.assert_array_equal(converted, picture[..., :3])


def test_frames_are_freed_when_they_are_no_longer_used():
  """A frame that has given out its side data is in a cycle of references: memory would fill with frames."""
  converter, picture = FrameConverter(64, 48), np.zeros((48, 64, 3), np.uint8)

  def count_frames():
    return sum(isinstance(item, av.VideoFrame) for item in gc.get_objects())

  gc.collect()
  gc.disable()
  try:
    before = count_frames()
    for _ in range(20):
      converter.to_rgb(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    assert count_frames() <= before + 1, "the first one tells the orientation"
  finally:
    gc.enable()
