"""What the proxies of the vision tower look at, drawn over the frames. In a notebook:

  model = clipvip_jax.load("build/demo")
  plt.imshow(attention_maps.draw_video(model, "cat.mp4"))

Letters: M proxies, the class token first, T frames, S side in pixels, L = G^2 patches of a frame, H and W of a picture.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from clipvip_jax.input_pipeline import preprocessing, read_media
from clipvip_jax.input_pipeline.corpus import text
from clipvip_jax.input_pipeline.frame_sampling import uniform_frames
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError

_SIDE = 128  # of a frame's longer side when drawn, in pixels
_SHOWN = 8  # frames in the report
_QUALITY = 80  # of its JPEGs
_HEAT = 0.65  # how much of a pixel is heat, and not the frame
_GAP = 4  # pixels between the pictures of a grid


def proxy_attention(
  net: clip_vip.ClipVip, params: Any, video: Float[np.ndarray, "t s s 3"]
) -> Float[np.ndarray, "m t l"]:
  """The share of each proxy's attention, in the last block, that falls on each patch; the rest falls on proxies.

  It computes on one device, so that one process of several can call it alone.
  """
  local = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, params)
  return np.asarray(_attention(net, local, video[None]))[0]


@functools.partial(jax.jit, static_argnums=0)
def _attention(net: clip_vip.ClipVip, params: Any, video: jax.Array) -> Any:
  return clip_vip.proxy_attention_weights(net, params, video)


def proxy_names(count: int) -> list[str]:
  """Of `count` proxies."""
  return ["class token", *(f"proxy {i}" for i in range(1, count))]


def draw_video(model: Any, video: Any) -> UInt8[np.ndarray, "h w 3"]:
  """A video as `draw_grid`. `model` is what `clipvip_jax.load` gives; `video` is whatever it embeds.

  Raises:
    UserError: the video cannot be read.
  """
  num_frames = model.config.data.num_frames
  attention = proxy_attention(clip_vip.from_config(model.config.model), model.params, model.read_clip(video))
  return draw_grid(attention, read_media.read_frames(video, num_frames))


def draw_grid(attention: Float[np.ndarray, "m t l"], frames: Sequence[Any]) -> UInt8[np.ndarray, "h w 3"]:
  """One row with the T frames, and below it one a proxy, in the order of `proxy_names`; frames as for `overlays`."""
  shown = drawn(frames)
  rows = np.concatenate([shown[None], overlays(attention, shown)])
  rows = np.pad(rows, ((0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
  whole = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
  return whole[:-_GAP, :-_GAP]


def drawn(frames: Sequence[Any]) -> UInt8[np.ndarray, "t h w 3"]:
  """Frames, each JPEG bytes or uint8 [H, W, 3], as they are drawn: the first one's shape, its longer side `_SIDE`."""
  import cv2

  arrays = [frame if isinstance(frame, np.ndarray) else preprocessing.decode_jpeg(frame) for frame in frames]
  height, width = arrays[0].shape[:2]
  scale = _SIDE / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
  return np.stack([cv2.resize(np.ascontiguousarray(array), size, interpolation=how) for array in arrays])


def overlays(
  attention: Float[np.ndarray, "m t l"], frames: UInt8[np.ndarray, "t h w 3"]
) -> UInt8[np.ndarray, "m t h w 3"]:
  """Heat over grey frames: from black, no attention, to yellow, the most that the proxy gives a patch of any frame.

  Raises:
    UserError: other frames than those of `attention`, or patches that fill no square.
  """
  import cv2

  num_frames, num_patches = attention.shape[1:]
  side = math.isqrt(num_patches)
  if side * side != num_patches or len(frames) != num_frames:
    raise UserError(f"attention of {num_frames} frames of {num_patches} patches does not fit {len(frames)} frames")
  height, width = frames.shape[1:3]
  grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])[..., None]
  colours = heat_colours()
  most = attention.max(axis=(1, 2), keepdims=True)
  heat = (attention / np.where(most > 0, most, 1)).astype(np.float32).reshape(-1, side, side)
  smooth = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in heat]
  levels = (255 * np.clip(smooth, 0, 1)).round().astype(np.uint8).reshape(-1, num_frames, height, width)
  return ((1 - _HEAT) * grey + _HEAT * colours[levels]).round().astype(np.uint8)


@functools.cache
def heat_colours() -> UInt8[np.ndarray, "256 3"]:
  """Red, green and blue of inferno, which grows evenly brighter, so that it is read in grey too."""
  import cv2

  return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]


def record_attention(net: clip_vip.ClipVip, params: Any, record: dict[str, Any], config: Any) -> dict[str, Any]:
  """A record's frames, as evaluation sees them, with what each proxy looks at: `attention` of `report.write_report`.

  Args:
    net: both towers.
    params: the parameters.
    record: of a corpus.
    config: the whole configuration.
  """
  name, stored = text(record, "id"), record["frames"]
  frames = [bytes(stored[i]) for i in uniform_frames(len(stored), config.data.num_frames)]
  decoded = [preprocessing.decode_jpeg(frame, f"a frame of {name}") for frame in frames]
  video = np.stack([preprocessing.resize_normalize(frame, config.model.image_size) for frame in decoded])
  attention = proxy_attention(net, params, video)
  shown = uniform_frames(len(frames), min(_SHOWN, len(frames)))
  small = drawn(decoded)
  maps = overlays(attention, small)
  shares = attention.sum(axis=2)
  return {
    "id": name,
    "num_frames": len(frames),
    "shown": shown.tolist(),
    "frames": [_jpeg(small[i]) for i in shown],
    "proxies": [
      {
        "name": proxy,
        "share": float(shares[m].sum()),
        "frames": [{"share": float(shares[m, i]), "jpeg": _jpeg(maps[m, i])} for i in shown],
      }
      for m, proxy in enumerate(proxy_names(len(attention)))
    ],
  }


def _jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
  import simplejpeg

  return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=_QUALITY, colorsubsampling="420")
