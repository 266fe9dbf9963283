"""Image files of several pictures: animations, tiles, pages, transparency."""

import numpy as np
import pytest
from odd_images import grey_pictures, write_animation, write_avif_grid, write_tiled_tiff
from PIL import Image, ImageOps
from videos import decode_video

from clipvip_jax.data.engine.frame_extraction import FrameSettings, extract_frames
from clipvip_jax.input_pipeline import image_files
from clipvip_jax.input_pipeline.media_error import MediaError
from clipvip_jax.input_pipeline.read_media import read_frames
from clipvip_jax.input_pipeline.video_decoder import iterate_pictures

SETTINGS = FrameSettings(fps=3, short_side=0)


def transparent(blue=0):
  """Returns a red picture with a transparent right half."""
  picture = np.zeros((64, 64, 4), np.uint8)
  picture[..., 0], picture[..., 2], picture[:, :32, 3] = 250, blue, 255
  return Image.fromarray(picture)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.avif"])
def test_animations_are_videos(tmp_path, name):
  path = write_animation(tmp_path / name, grey_pictures(20), 100)
  pictures = list(iterate_pictures(path))
  np.testing.assert_allclose([picture.seconds for picture in pictures], np.arange(20) / 10, atol=2e-3)
  np.testing.assert_allclose([picture.rgb().mean() for picture in pictures], 10 * np.arange(20), atol=4)
  assert len(extract_frames(str(path), SETTINGS, iterate_pictures)) == 6
  assert [round(frame.mean() / 10) for frame in read_frames(path, 3)] == [0, 9, 19]
  assert [round(frame.mean() / 10) for frame in read_frames(path, 3, (1.0, 2.0))] == [10, 14, 19]
  assert len(extract_frames(str(path), SETTINGS, iterate_pictures, 1.0, 2.0)) == 3


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.avif"])
def test_a_still_of_these_formats_is_one_frame_for_all_time_up_to_its_end(tmp_path, name):
  grey_pictures(1)[0].save(tmp_path / name)
  assert len({frame.tobytes() for frame in read_frames(tmp_path / name, 4, (0.0, 1.0))}) == 1
  with pytest.raises(MediaError, match=r"start=2 is after the end of the video"):
    read_frames(tmp_path / name, 4, (2.0, 3.0))


@pytest.mark.parametrize(("name", "other"), [("x.avif", "x.jpg"), ("x.gif", "x.png"), ("x.webp", "x.mp4")])
def test_animations_are_recognised_by_content(tmp_path, name, other):
  write_animation(tmp_path / name, grey_pictures(4, 50), 100).rename(tmp_path / other)
  assert [round(frame.mean() / 50) for frame in read_frames(tmp_path / other, 4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["x.webp", "x.png"])
def test_pictures_of_an_animation_have_their_own_durations(tmp_path, name):
  path = write_animation(tmp_path / name, grey_pictures(3, 50), [100, 1000, 400])
  np.testing.assert_allclose([picture.seconds for picture in iterate_pictures(path)], [0, 0.1, 1.1], atol=1e-3)


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.avif"])
@pytest.mark.parametrize("count", [1, 3])
def test_transparency_is_composed_on_white(tmp_path, name, count):
  path = write_animation(tmp_path / name, [transparent(100 * i) for i in range(count)], 100)
  for index, frame in enumerate(read_frames(path, count)):
    assert np.abs(frame[:, :24].astype(int) - (250, 0, 100 * index)).max() < 12 and frame[:, 40:].min() > 245


@pytest.mark.parametrize("changes", [False, True])
def test_a_canvas_that_opaque_pictures_do_not_fill_is_white(tmp_path, changes):
  """Pillow stores the opaque half alone, without a flag for transparency; pictures without a change as one."""
  path = write_animation(tmp_path / "x.webp", [transparent(100 * changes * i) for i in range(3)], 100)
  frames = read_frames(path, 3)
  assert all(frame[:, 40:].min() > 245 and frame[:, :24, 0].min() > 240 for frame in frames)


def test_opaque_images_with_an_alpha_channel_are_decoded_as_before(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
  picture[..., 3] = 255
  Image.fromarray(picture).save(tmp_path / "x.png")
  np.testing.assert_array_equal(image_files.read_image(tmp_path / "x.png"), picture[..., :3])


@pytest.mark.parametrize("name", ["palette.png", "grey.png", "x.webp"])
def test_transparency_of_any_kind_is_composed_on_white(tmp_path, name):
  if name == "grey.png":
    Image.fromarray(np.array([[[60, 255], [60, 0]]], np.uint8), "LA").save(tmp_path / name)
  elif name == "palette.png":
    image = Image.new("P", (2, 1))
    image.putpalette([60, 60, 60, 5, 5, 5])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / name, transparency=1)
  else:
    Image.fromarray(np.array([[[60, 60, 60, 255], [5, 5, 5, 0]]], np.uint8)).save(tmp_path / name, lossless=True)
  assert image_files.read_image(tmp_path / name).tolist() == [[[60, 60, 60], [255, 255, 255]]]


def test_tiles_are_assembled_or_refused(tmp_path):
  tiles = [Image.new("RGB", (64, 64), colour) for colour in ((240, 20, 20), (20, 20, 240))]
  (picture,) = decode_video(write_avif_grid(tmp_path / "x.avif", tiles)).astype(int)
  assert picture.shape == (64, 128, 3)
  assert np.abs(picture[:, :60] - (240, 20, 20)).max() < 8 and np.abs(picture[:, 68:] - (20, 20, 240)).max() < 8
  with pytest.raises(MediaError, match=r"x\.heic: a HEIC image with tiles, .* convert it to JPEG or PNG"):
    decode_video(write_avif_grid(tmp_path / "x.heic", tiles, b"heic"))


HDR = b"colrnclx" + bytes((0, 9, 0, 16, 0, 9, 0))  # BT.2020, PQ


@pytest.mark.parametrize("what", ["tiles", "transparency"])
def test_hdr_with_tiles_or_transparency_is_refused(tmp_path, what):
  """Pillow would decode it without tone mapping."""
  path = tmp_path / "x.avif"
  if what == "tiles":
    write_avif_grid(path, [Image.new("RGB", (64, 64))] * 2, colour=HDR)
  else:
    transparent().save(path)
    content = path.read_bytes()
    at = content.index(b"colrnclx")
    path.write_bytes(content[:at] + HDR + content[at + len(HDR) :])
  with pytest.raises(MediaError, match=rf"x\.avif: an HDR image \(PQ or HLG\) with {what}, .*; convert it to SDR"):
    decode_video(path)


@pytest.mark.parametrize("name", ["x.tif", "x.avif", "x.jfif", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_of_images_are_those_of_pillow(tmp_path, name, orientation):
  """Also beside other EXIF data, whatever the name of the file."""
  picture = np.zeros((48, 64, 3), np.uint8)
  picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (250, 10, 10), (10, 250, 10), (10, 10, 250)
  exif = Image.Exif()
  exif[0x0112], exif[0x010F] = orientation, "Maker"
  kinds = {"x.tif": "TIFF", "x.avif": "AVIF", "x.jfif": "JPEG", "png": "PNG", "webp": "WEBP"}
  Image.fromarray(picture).save(tmp_path / name, kinds[name], exif=exif)
  with Image.open(tmp_path / name) as image:
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
  (found,) = read_frames(tmp_path / name, 1)
  assert found.shape == expected.shape and np.abs(found - expected).mean() < 6


def test_mirrored_heic_beside_exif_is_refused(tmp_path):
  description = b"hdlr....pict....imir.Exif"
  start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
  (tmp_path / "x.heic").write_bytes(start + (8 + len(description)).to_bytes(4, "big") + b"meta" + description)
  with pytest.raises(MediaError, match=r"a HEIC image with a mirrored orientation, .*; convert it to JPEG or PNG"):
    decode_video(tmp_path / "x.heic")


def test_pages_are_refused_and_single_ones_decoded(tmp_path):
  one, *_ = pages = grey_pictures(3, 50)
  pages[1].save(tmp_path / "one.tif")
  one.save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
  assert decode_video(tmp_path / "one.tif").mean() == 50
  for name in ("pages.tif", "pages.jpg"):
    (tmp_path / name).write_bytes((tmp_path / "pages.tif").read_bytes())
    with pytest.raises(MediaError, match=r"a TIFF of 3 pages, .* save them as separate images in a folder"):
      read_frames(tmp_path / name, 2)


@pytest.mark.parametrize("kind", ["jpeg", "tiles", "tiles of 16 bits", "multiplied with its alpha", "no alpha"])
def test_kinds_of_tiff_have_their_pixels(tmp_path, kind):
  grey = np.full((32, 48, 3), 100, np.uint8)
  expected = 100
  if kind == "jpeg":
    Image.fromarray(grey).save(tmp_path / "x.tif", compression="jpeg")
  elif kind == "tiles":
    write_tiled_tiff(tmp_path / "x.tif", grey)
  elif kind == "tiles of 16 bits":
    write_tiled_tiff(tmp_path / "x.tif", grey[..., :1].astype("<u2") * 257)
  else:
    alpha = np.full((32, 48, 1), 200, np.uint8)
    extra = 1 if kind == "multiplied with its alpha" else 0
    write_tiled_tiff(tmp_path / "x.tif", np.concatenate([grey, alpha], 2), extra_samples=[extra])
    expected = 155 if extra else 100
  for picture in (read_frames(tmp_path / "x.tif", 1)[0], decode_video(tmp_path / "x.tif")):
    assert abs(picture.astype(float) - expected).max() <= 1


def test_tiles_of_numbers_that_are_no_colours_are_refused(tmp_path):
  for array in (np.zeros((16, 16, 3), "<f4"), np.zeros((16, 16, 1), "<f4"), np.zeros((16, 16, 2), "<u2")):
    path = write_tiled_tiff(tmp_path / "x.tif", array, sample_format=3 if array.dtype.kind == "f" else 1)
    with pytest.raises(MediaError, match=r"a TIFF with tiles or JPEG compression .*; convert it to PNG"):
      read_frames(path, 1)


def test_an_avif_of_another_name_is_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  (tmp_path / "frames").mkdir()
  Image.new("RGB", (64, 32)).save(tmp_path / "x.avif", exif=exif)
  for name in ("x.jpg", "frames/x.png"):
    (tmp_path / name).write_bytes((tmp_path / "x.avif").read_bytes())
  for name in ("x.avif", "x.jpg", "frames"):
    assert read_frames(tmp_path / name, 1)[0].shape == (64, 32, 3)
  [stored] = extract_frames(str(tmp_path / "x.jpg"), SETTINGS, iterate_pictures)
  assert image_files.decode_image(stored).shape == (64, 32, 3)
  (tmp_path / "y.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
  with pytest.raises(MediaError, match=r"not a valid JPEG.*; it is HEIC or a video: correct its suffix"):
    read_frames(tmp_path / "y.jpg", 1)


def test_an_animation_is_no_frame(tmp_path):
  grey_pictures(1)[0].save(tmp_path / "0.webp")
  assert len(read_frames(tmp_path, 1)) == 1
  write_animation(tmp_path / "1.webp", grey_pictures(3), 100)
  with pytest.raises(MediaError, match=r"1\.webp: an animated image, where one picture is expected"):
    read_frames(tmp_path, 2)


@pytest.mark.parametrize("name", ["x.webp", "x.png", "x.avif"])
def test_cut_animations_are_refused(tmp_path, name):
  noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
  path = write_animation(tmp_path / name, [Image.fromarray(picture) for picture in noise], 100)
  path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
  with pytest.raises(MediaError, match=str(path)):
    decode_video(path)
