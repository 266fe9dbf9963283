"""Attention maps of the proxies."""

import types

import jax
import numpy as np
import pytest
import simplejpeg
import tiny
from project_paths import GOLDEN

from clipvip_jax.distributed import sharding
from clipvip_jax.input_pipeline import jpeg_decoder, read_media
from clipvip_jax.models import clip_vip
from clipvip_jax.reporting import attention_maps
from clipvip_jax.utils.errors import UserError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)


def brightness(pictures):
  return np.asarray(pictures, np.float32).sum(-1)


def test_heat_is_on_the_patch_with_the_attention():
  attention = np.full((2, 3, 16), 0.01, np.float32)
  attention[0, 1, 6] = attention[1, 2, 12] = 0.5  # rows 1 and 3, columns 2 and 0
  frames = np.zeros((3, 80, 120, 3), np.uint8)
  maps = attention_maps.overlay_attention(attention, frames)
  assert maps.shape == (2, 3, 80, 120, 3) and maps.dtype == np.uint8
  for m, t, row, column in ((0, 1, 1, 2), (1, 2, 3, 0)):
    place = np.unravel_index(brightness(maps[m]).argmax(), (3, 80, 120))
    assert place[0] == t and place[1] // 20 == row and place[2] // 30 == column
    others = np.delete(maps[m], t, axis=0)
    assert brightness(others).max() < brightness(maps[m, t]).max() / 5


def test_each_proxy_has_its_own_scale_over_all_frames():
  attention = np.random.default_rng(1).random((2, 3, 16), np.float32)
  frames = attention_maps.resize_frames(FRAMES)
  maps = attention_maps.overlay_attention(attention, frames)
  scaled = attention_maps.overlay_attention(attention * np.array([8, 0.125], np.float32)[:, None, None], frames)
  np.testing.assert_array_equal(maps, scaled)
  darker = attention_maps.overlay_attention(attention * np.array([1, 0.1, 1], np.float32)[:, None], frames)
  assert (brightness(darker[:, 1]).mean() < brightness(maps[:, 1]).mean() * 0.8).all(), "each frame has its own scale"


def test_zero_attention_draws_no_heat():
  maps = attention_maps.overlay_attention(np.zeros((1, 3, 4), np.float32), np.full((3, 8, 8, 3), 200, np.uint8))
  assert maps.max() <= 0.36 * 200 + 4


@pytest.mark.parametrize(("shape", "frames"), [((1, 3, 15), 3), ((1, 2, 16), 3)])
def test_rejects_attention_that_does_not_fit_the_frames(shape, frames):
  with pytest.raises(UserError, match="does not fit 3 frames"):
    attention_maps.overlay_attention(np.zeros(shape, np.float32), FRAMES[:frames])


def test_frames_keep_their_aspect_from_bytes_and_arrays():
  jpegs = [simplejpeg.encode_jpeg(frame, quality=95) for frame in FRAMES]
  for frames in (jpegs, FRAMES, np.repeat(FRAMES, 20, axis=1).repeat(20, axis=2)):
    assert attention_maps.resize_frames(frames).shape == (3, 85, 128, 3)
  grid = attention_maps.draw_grid(np.ones((4, 3, 16), np.float32), jpegs)
  assert grid.shape == (5 * 85 + 4 * 4, 3 * 128 + 2 * 4, 3) and grid.dtype == np.uint8
  np.testing.assert_array_equal(grid[:85, :128], attention_maps.resize_frames(jpegs)[0])


@pytest.fixture(scope="module")
def net():
  return tiny.model()


@pytest.mark.slow
def test_proxy_attention_accepts_replicated_and_numpy_parameters(net, golden):
  params = tiny.params(golden)
  video = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
  expected = clip_vip.proxy_attention_weights(net, params, video[None])[0]
  everywhere = sharding.replicated(sharding.make_mesh())
  for copies in (params, jax.device_put(params, everywhere), jax.tree.map(np.asarray, params)):
    attention = attention_maps.proxy_attention(net, copies, video)
    assert attention.shape == (4, 4, 16) and attention.dtype == np.float32
    np.testing.assert_allclose(attention, expected, atol=1e-6)
    assert (attention >= 0).all() and (attention.sum((1, 2)) < 1).all()
  assert attention_maps.proxy_names(4) == ["class token", "proxy 1", "proxy 2", "proxy 3"]


@pytest.mark.parametrize(("stored", "num_frames", "shown"), [(2, 4, [0, 1, 2, 3]), (24, 12, [0, 1, 3, 4, 6, 7, 9, 11])])
def test_record_attention_samples_frames_as_evaluation_does(net, golden, stored, num_frames, shown):
  rng = np.random.default_rng(0)
  record = {"id": b"clip", "frames": [simplejpeg.encode_jpeg(frame) for frame in rng.choice(FRAMES, stored)]}
  config = types.SimpleNamespace(
    data=types.SimpleNamespace(num_frames=num_frames, crop="squash"), model=types.SimpleNamespace(image_size=32)
  )
  params = tiny.params(golden)
  entry = attention_maps.record_attention(net, params, record, config, "test")
  assert (entry.split, entry.id, entry.num_frames, entry.frame_indices) == ("test", "clip", num_frames, shown)
  video = np.stack(
    [jpeg_decoder.decode_jpeg(record["frames"][i]) for i in np.linspace(0, stored - 1, num_frames).astype(int)]
  )
  attention = attention_maps.proxy_attention(net, params, read_media.read_clip(video, num_frames, 32))
  for m, proxy in enumerate(entry.proxies):
    assert proxy.share == pytest.approx(attention[m].sum(), rel=1e-5)
    assert [frame.share for frame in proxy.frames] == pytest.approx(attention[m].sum(1)[shown].tolist(), rel=1e-5)
    sizes = {simplejpeg.decode_jpeg_header(frame.jpeg)[:2] for frame in proxy.frames}
    assert sizes == {(85, 128)} and len(entry.frames) == len(proxy.frames) == len(shown)


def test_draw_video_with_loaded_weights():
  import clipvip_jax

  model = clipvip_jax.load(GOLDEN / "vip_tiny.safetensors", vision_heads=4, text_heads=4, num_frames=2)
  picture = attention_maps.draw_video(model, FRAMES)
  assert picture.shape == (5 * 85 + 4 * 4, 2 * 128 + 4, 3)
  model.config.data.crop = "center"
  assert attention_maps.draw_video(model, FRAMES).shape == (5 * 128 + 4 * 4, 2 * 128 + 4, 3), "only what it sees"
