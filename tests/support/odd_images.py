"""Image files of several pictures."""

import io
import pathlib
import struct

import numpy as np
from PIL import Image


def grey_pictures(count, step=10, size=(64, 64)):
  """Returns Pillow images; image i has the grey value `step` * i."""
  return [Image.fromarray(np.full((*size, 3), step * i, np.uint8)) for i in range(count)]


def write_animation(path, pictures, milliseconds, **options):
  """Writes pictures as an animation of the format of the suffix; returns the path."""
  pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, **options)
  return path


def write_avif_grid(path, tiles, brand=b"avif", colour=b""):
  """Writes pictures of equal size side by side as the tiles of one AVIF; `colour`: a box colr without its size."""
  encoded = [_avif(tile) for tile in tiles]
  width, height, count = tiles[0].width, tiles[0].height, len(tiles)
  grid = struct.pack(">BBBBHH", 0, 0, 0, count - 1, width * count, height)
  payloads = [grid, *(data for data, _ in encoded)]
  kinds = [b"grid", *[b"av01"] * count]
  entries = b"".join(_full(b"infe", struct.pack(">HH", i, 0) + kind + b"\0", 2) for i, kind in enumerate(kinds, 1))
  tile_ids = struct.pack(f">HH{count}H", 1, count, *range(2, count + 2))
  properties = [
    _full(b"ispe", struct.pack(">II", width, height)),
    _full(b"ispe", struct.pack(">II", width * count, height)),
    encoded[0][1],
    _full(b"pixi", bytes((3, 8, 8, 8))),
    _box(b"free", b"") if not colour else _box(colour[:4], colour[4:]),
  ]
  associations = [(1, (2, 4, 5)), *((i, (1, 0x83, 4, 5)) for i in range(2, count + 2))]
  rows = b"".join(struct.pack(">HB", item, len(numbers)) + bytes(numbers) for item, numbers in associations)
  table = _full(b"ipma", struct.pack(">I", len(associations)) + rows)
  start = _box(b"ftyp", brand + bytes(4) + b"mif1" + b"miaf" + brand)

  def description(offset):
    rows = []
    for item, data in enumerate(payloads, 1):
      rows.append(struct.pack(">HHHII", item, 0, 1, offset, len(data)))
      offset += len(data)
    return _full(
      b"meta",
      _full(b"hdlr", bytes(4) + b"pict" + bytes(13))
      + _full(b"pitm", struct.pack(">H", 1))
      + _full(b"iloc", struct.pack(">BBH", 0x44, 0, len(rows)) + b"".join(rows))
      + _full(b"iinf", struct.pack(">H", len(kinds)) + entries)
      + _full(b"iref", _box(b"dimg", tile_ids))
      + _box(b"iprp", _box(b"ipco", b"".join(properties)) + table),
    )

  offset = len(start) + len(description(0)) + 8
  pathlib.Path(path).write_bytes(start + description(offset) + _box(b"mdat", b"".join(payloads)))
  return path


def _avif(picture):
  """Returns the coded data and the box av1C of a picture."""
  buffer = io.BytesIO()
  picture.save(buffer, "AVIF", quality=95)
  data = buffer.getvalue()
  config, mdat = data.index(b"av1C") - 4, data.index(b"mdat") - 4
  sizes = [int.from_bytes(data[i : i + 4], "big") for i in (config, mdat)]
  return data[mdat + 8 : mdat + sizes[1]], data[config : config + sizes[0]]


def _box(kind, data):
  return struct.pack(">I", len(data) + 8) + kind + data


def _full(kind, data, version=0):
  return _box(kind, bytes((version, 0, 0, 0)) + data)


def write_tiled_tiff(path, array, *, extra_samples=(), sample_format=1):
  """Writes an array [h, w, c] with sides of multiples of 16 as a TIFF of one strip of tiles, without compression."""
  height, width, samples = array.shape
  tiles = [array[y : y + 16, x : x + 16].tobytes() for y in range(0, height, 16) for x in range(0, width, 16)]
  starts = [8 + index * len(tiles[0]) for index in range(len(tiles))]
  tags = {256: width, 257: height, 258: [8 * array.itemsize] * samples, 259: 1, 262: 2 if samples > 2 else 1}
  tags |= {277: samples, 322: 16, 323: 16, 324: starts, 325: [len(tiles[0])] * len(tiles)}
  tags |= {338: extra_samples} if extra_samples else {}
  tags |= {339: [sample_format] * samples}
  begin = starts[-1] + len(tiles[-1])
  entries, outside = b"", b""
  for tag, value in sorted(tags.items()):
    values = [value] if isinstance(value, int) else [*value]
    content = struct.pack(f"<{len(values)}I", *values)
    if len(values) > 1:
      outside, content = outside + content, struct.pack("<I", begin + 2 + 12 * len(tags) + 4 + len(outside))
    entries += struct.pack("<HHI", tag, 4, len(values)) + content
  directory = struct.pack("<H", len(tags)) + entries + bytes(4) + outside
  path.write_bytes(b"II*\0" + struct.pack("<I", begin) + b"".join(tiles) + directory)
  return path
