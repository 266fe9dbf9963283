"""Attention maps of the vision tower's proxies, drawn over the frames of a video. In a notebook:

  model = clipvip_jax.load("build/demo")
  plt.imshow(attention_maps.draw_video(model, "cat.mp4"))

Letters: M proxies, class token first; T frames; S side in pixels; L patches per frame; H, W size of an image.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from clipvip_jax.inference.embedding_model import EmbeddingModel, Video
from clipvip_jax.input_pipeline import jpeg_decoder, preprocessing, read_media
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.input_pipeline.record_text import Record, record_text
from clipvip_jax.models import clip_vip
from clipvip_jax.reporting.report_inputs import FrameAttention, ProxyAttention, VideoAttention
from clipvip_jax.utils.errors import UserError

Frame = bytes | np.ndarray  # JPEG bytes or uint8 [H, W, 3]

_LONGER_SIDE = 128  # of a frame, in pixels
_MAX_FRAMES = 8  # of a video in the report
_JPEG_QUALITY = 80
_HEAT_OPACITY = 0.65  # over the grey frame
_GAP = 4  # between the images of a grid, in pixels


def proxy_attention(
  net: clip_vip.ClipVip, params: Mapping[str, Any], video: Float[np.ndarray, "t s s 3"]
) -> Float[np.ndarray, "m t l"]:
  """Returns the share of each proxy's attention on each patch, in the last block; the rest is on proxies.

  It computes on one device without communication, so one process of several may call it alone.

  Args:
    net: both towers.
    params: their parameters, in NumPy arrays or replicated on devices.
    video: normalised pixels.
  """
  local_params = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, params)
  return np.asarray(_jit_attention(net, local_params, video[None]))[0]


@functools.partial(jax.jit, static_argnums=0)
def _jit_attention(net: clip_vip.ClipVip, params: Mapping[str, Any], video: jax.Array) -> jax.Array:
  return clip_vip.proxy_attention_weights(net, params, video)


def proxy_names(count: int) -> list[str]:
  """Returns the names of `count` proxies, class token first."""
  return ["class token", *(f"proxy {i}" for i in range(1, count))]


def draw_video(model: EmbeddingModel, video: Video) -> UInt8[np.ndarray, "h w 3"]:
  """Draws the attention of a model's proxies in a video as `draw_grid`.

  Args:
    model: a model that `clipvip_jax.load` returns.
    video: any video that its `embed_videos` accepts.

  Raises:
    UserError: the video cannot be read.
  """
  num_frames = model.config.data.num_frames
  attention = proxy_attention(clip_vip.from_config(model.config.model), model.params, model.read_clip(video))
  frames = read_media.read_frames(video, num_frames)
  return draw_grid(attention, [preprocessing.crop_frame(frame, model.config.data.crop) for frame in frames])


def draw_grid(attention: Float[np.ndarray, "m t l"], frames: Sequence[Frame]) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a row with the T frames and below it a row per proxy, in the order of `proxy_names`.

  Args:
    attention: as `proxy_attention` returns it.
    frames: T frames of any size.
  """
  resized = resize_frames(frames)
  rows = np.concatenate([resized[None], overlay_attention(attention, resized)])
  rows = np.pad(rows, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
  grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
  return grid[:-_GAP, :-_GAP]


def resize_frames(frames: Sequence[Frame]) -> UInt8[np.ndarray, "t h w 3"]:
  """Resizes frames, up or down, to the aspect of the first one and a longer side of 128 pixels."""
  import cv2

  arrays = [frame if isinstance(frame, np.ndarray) else jpeg_decoder.decode_jpeg(frame) for frame in frames]
  height, width = arrays[0].shape[:2]
  scale = _LONGER_SIDE / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  return np.stack([cv2.resize(np.ascontiguousarray(array), size, interpolation=interpolation) for array in arrays])


def overlay_attention(
  attention: Float[np.ndarray, "m t l"], frames: UInt8[np.ndarray, "t h w 3"]
) -> UInt8[np.ndarray, "m t h w 3"]:
  """Draws heat over grey frames, from black (no attention) to yellow (the proxy's largest share of any patch).

  Raises:
    UserError: `attention` has another number of frames, or its patches do not fill a square.
  """
  import cv2

  num_frames, num_patches = attention.shape[1:]
  side = math.isqrt(num_patches)
  if side * side != num_patches or len(frames) != num_frames:
    raise UserError(
      f"attention of {num_frames} frames with {num_patches} patches does not fit {len(frames)} frames; pass"
      " one entry per frame, and a square number of patches"
    )
  height, width = frames.shape[1:3]
  grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])[..., None]
  max_share = attention.max(axis=(1, 2), keepdims=True)
  heat = (attention / np.where(max_share > 0, max_share, 1)).astype(np.float32).reshape(-1, side, side)
  smooth = [cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC) for patches in heat]
  levels = (255 * np.clip(smooth, 0, 1)).round().astype(np.uint8).reshape(-1, num_frames, height, width)
  return ((1 - _HEAT_OPACITY) * grey + _HEAT_OPACITY * heat_colours()[levels]).round().astype(np.uint8)


@functools.cache
def heat_colours() -> UInt8[np.ndarray, "256 3"]:
  """Returns the colour map inferno as RGB; its brightness is uniform, so it also works in greyscale."""
  import cv2

  return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]


def record_attention(
  net: clip_vip.ClipVip, params: Mapping[str, Any], record: Record, config: ConfigDict, split: str
) -> VideoAttention:
  """Draws the attention of the proxies in a record's frames, which are sampled as in evaluation.

  Args:
    net: both towers.
    params: their parameters, as for `proxy_attention`.
    record: a record of the corpus.
    config: the run's configuration.
    split: split of the record.
  """
  name, stored = record_text(record, "id"), record["frames"]
  jpegs = [bytes(stored[i]) for i in uniform_frames(len(stored), config.data.num_frames)]
  frames = [jpeg_decoder.decode_jpeg(jpeg, f"a frame of {name}") for jpeg in jpegs]
  size, crop = config.model.image_size, config.data.crop
  video = np.stack([preprocessing.resize_normalize(frame, size, crop=crop) for frame in frames])
  attention = proxy_attention(net, params, video)
  thumbnails = resize_frames([preprocessing.crop_frame(frame, crop) for frame in frames])
  maps = overlay_attention(attention, thumbnails)
  shares = attention.sum(axis=2)
  indices = uniform_frames(len(frames), min(_MAX_FRAMES, len(frames))).tolist()
  return VideoAttention(
    split=split,
    id=name,
    num_frames=len(frames),
    frame_indices=indices,
    frames=[_encode_jpeg(thumbnails[i]) for i in indices],
    proxies=[
      ProxyAttention(
        name=proxy,
        share=float(shares[m].sum()),
        frames=[FrameAttention(float(shares[m, i]), _encode_jpeg(maps[m, i])) for i in indices],
      )
      for m, proxy in enumerate(proxy_names(len(attention)))
    ],
  )


def _encode_jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
  import simplejpeg

  return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=_JPEG_QUALITY, colorsubsampling="420")
