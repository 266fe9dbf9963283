"""Renders scenes to pictures with antialiased edges."""

import numpy as np

from clipvip_jax.data.moving_shapes.scenes import Body, Scene


def render(scene: Scene, side: int) -> np.ndarray:
  """Returns uint8 RGB [T, side, side, 3].

  Args:
    scene: the scene.
    side: height and width in pixels.
  """
  pixels = (np.arange(side, dtype=np.float32) + 0.5) / side
  picture = np.empty((3, len(scene.centres), side, side), np.float32)
  picture[:] = scene.colour[:, None, None, None]
  for number, body in enumerate(scene.bodies):
    centre = scene.centres[:, number].astype(np.float32)
    x = (pixels[None, None, :] - centre[:, 0, None, None]) * side
    y = (pixels[None, :, None] - centre[:, 1, None, None]) * side
    radius = np.float32(body.radius * side)
    # Distances are in pixels: an edge fades over one pixel.
    cover = np.clip(0.5 - _distance(body.shape, x, y, radius), 0, 1)
    shade = _shade(body, x, y, radius)
    for channel in range(3):  # faster than all at once on [T, H, W, 3]
      plane = picture[channel]
      plane += cover * (np.float32(body.colour[channel]) * shade - plane)
  return np.ascontiguousarray(np.rint(picture).astype(np.uint8).transpose(1, 2, 3, 0))


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.float32) -> np.ndarray:
  """Returns [T, H, W], the signed distance to the shape's edge, negative inside. x is [T, 1, W], y is [T, H, 1]."""
  if shape == "circle":
    return np.sqrt(x * x + y * y) - radius
  if shape == "ring":
    return np.abs(np.sqrt(x * x + y * y) - 0.72 * radius) - 0.28 * radius
  if shape == "square":
    return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
  if shape == "cross":
    across = np.maximum(np.abs(x) - radius, np.abs(y) - 0.36 * radius)
    return np.minimum(across, np.maximum(np.abs(x) - 0.36 * radius, np.abs(y) - radius))
  if shape == "triangle":  # pointing up; 2 : 1 flanks
    flank = (2 * np.abs(x) - (y + radius)) / np.float32(np.sqrt(5))
    return np.maximum(flank, y - 0.85 * radius)
  raise ValueError(f"unknown shape {shape!r}")


def _shade(body: Body, x: np.ndarray, y: np.ndarray, radius: np.float32) -> np.ndarray:
  """Returns [T, H, W] or [1, 1, 1], the factor from 0.5 to 1 by which the texture darkens the colour."""
  if body.texture == "plain":
    return np.ones((1, 1, 1), np.float32)
  wave = np.float32(2 * np.pi) / radius
  if body.texture == "striped":
    light = np.sin(wave * 0.85 * (x + y))
  else:
    light = 0.55 - np.cos(wave * 1.1 * x) * np.cos(wave * 1.1 * y)
  return np.clip(0.75 + 0.6 * light, 0.5, 1)
