"""Benchmark of the input pipeline in clips per second, against a bare loop over the same library calls and tf.data.

  python -m benchmarks.throughput

A clip is 12 of 44 stored JPEGs (320 x 240, quality 92, 4:2:0), decoded to normalised float32 at 224 x 224, or to uint8.
Measures

- decoding alone, also with libjpeg's fast methods: no method that decodes JPEGs can be faster;
- the bare loop, one thread: frames in memory through simplejpeg, OpenCV, NumPy and np.stack;
- the bare loop with preallocated memory, also for uint8: the upper bound of these library calls;
- the pipeline with threads only, one and two worker processes: records of an ArrayRecord file, shuffled, with texts;
  also with `data.pixels=uint8`, and with `data.fast_decode` in addition;
- tf.data with one and two threads: the bare loop's calls in tf.numpy_function, and TensorFlow's operations (these rows
  need `pip install tensorflow-cpu`, and are skipped without it).

Prints the best of REPEATS rounds over all methods; each measurement runs in a separate process.
"""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CLIPS, FRAMES, HEIGHT, WIDTH, QUALITY = 64, 44, 240, 320, 92
DRAWN, SIZE, BATCH = 12, 224, 16
SECONDS, REPEATS = 4.0, 3


def camera_frames(rng: np.random.Generator) -> Iterator[np.ndarray]:
  """Yields frames of a pan over a smooth image with sensor noise, about 20 kB each as JPEG."""
  import cv2

  view = np.full((300, 380, 3), 128.0, np.float32)
  for cells, contrast in ((6, 30), (12, 25), (24, 20), (48, 12), (96, 6), (190, 3)):
    grid = rng.normal(size=(cells * 3 // 4, cells, 3)).astype(np.float32)
    view += contrast * cv2.resize(grid, (380, 300), interpolation=cv2.INTER_CUBIC)
  for i in range(FRAMES):
    x, y = int(20 + 15 * np.sin(i / 7)), int(20 + 10 * np.cos(i / 9))
    frame = view[y : y + HEIGHT, x : x + WIDTH] + rng.normal(size=(HEIGHT, WIDTH, 3)) * 2
    yield np.clip(frame, 0, 255).astype(np.uint8)


def write_corpus(folder: pathlib.Path, clips: int = CLIPS) -> float:
  """Writes a corpus of so many clips; returns the mean size of a frame in kB."""
  import simplejpeg

  from tests.support import written_corpus

  rng = np.random.default_rng(0)
  sizes = []

  def records():
    for i in range(clips):
      frames = [simplejpeg.encode_jpeg(x, QUALITY, colorsubsampling="420") for x in camera_frames(rng)]
      sizes.extend(map(len, frames))
      yield {
        "id": f"clip{i}",
        "frames": frames,
        "subtitle": "what somebody says meanwhile",
        "caption": "a soft picture",
      }

  written_corpus.write(folder, records(), name="camera")
  return float(np.mean(sizes)) / 1e3


def open_corpus(folder: str):
  """Opens the corpus that `write_corpus` wrote."""
  import tensorflow_datasets as tfds

  from clipvip_jax.input_pipeline.corpus import Corpus

  return Corpus(tfds.builder_from_directory(pathlib.Path(folder, "camera", "1.0.0")))


def sampled_frames(folder: str) -> list[list[bytes]]:
  """Returns the sampled JPEG frames of each clip."""
  records = open_corpus(folder).records("train")
  return [[record["frames"][i] for i in np.linspace(0, FRAMES - 1, DRAWN).astype(int)] for record in records]


def clip_pixels(frames: list[bytes]) -> np.ndarray:
  """Decodes, resizes and normalises frames to float32 [12, 224, 224, 3] in the simplest form."""
  import cv2
  import simplejpeg

  from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

  mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
  resized = [
    cv2.resize(simplejpeg.decode_jpeg(x).astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    for x in frames
  ]
  return (np.stack(resized) / 255 - mean) / std


def rate(step: Callable[[], int]) -> float:
  """Returns the clips per second of a function that returns a number of clips."""
  step()
  clips, started = 0, time.perf_counter()
  while time.perf_counter() - started < SECONDS:
    clips += step()
  return clips / (time.perf_counter() - started)


def bare(folder: str) -> float:
  """Measures one thread with newly allocated arrays."""
  import cv2

  cv2.setNumThreads(0)
  clips = sampled_frames(folder)

  def step():
    np.stack([clip_pixels(frames) for frames in clips[:BATCH]])
    return BATCH

  return rate(step)


def decoding(folder: str, fast: bool) -> float:
  """Measures one thread that decodes into the same memory."""
  import simplejpeg

  clips = sampled_frames(folder)
  frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)

  def step():
    for jpeg in itertools.chain(*clips[:BATCH]):
      simplejpeg.decode_jpeg(jpeg, fastdct=fast, fastupsample=fast, buffer=frame)
    return BATCH

  return rate(step)


def bare_in_place_uint8(folder: str) -> float:
  """Measures one thread that decodes and resizes to a preallocated uint8 batch."""
  import cv2
  import simplejpeg

  cv2.setNumThreads(0)
  clips = sampled_frames(folder)
  batch = np.empty((BATCH, DRAWN, SIZE, SIZE, 3), np.uint8)

  def step():
    for frames, outputs in zip(clips[:BATCH], batch, strict=True):
      for jpeg, output in zip(frames, outputs, strict=True):
        cv2.resize(simplejpeg.decode_jpeg(jpeg), (SIZE, SIZE), dst=output, interpolation=cv2.INTER_CUBIC)
    return BATCH

  return rate(step)


def bare_in_place(folder: str) -> float:
  """Measures one thread with a preallocated batch and float32 frame."""
  import cv2
  import simplejpeg

  from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

  cv2.setNumThreads(0)
  clips = sampled_frames(folder)
  batch = np.empty((BATCH, DRAWN, SIZE, SIZE, 3), np.float32)
  frame = np.empty((HEIGHT, WIDTH, 3), np.float32)
  scale = np.tile(1 / (255 * np.array(STD)), SIZE).astype(np.float32)
  shift = np.tile(np.array(MEAN) / np.array(STD), SIZE).astype(np.float32)

  def step():
    for frames, outputs in zip(clips[:BATCH], batch, strict=True):
      for jpeg, output in zip(frames, outputs, strict=True):
        np.copyto(frame, simplejpeg.decode_jpeg(jpeg))
        cv2.resize(frame, (SIZE, SIZE), dst=output, interpolation=cv2.INTER_CUBIC)
        rows = output.reshape(SIZE, -1)
        rows *= scale
        rows -= shift
    return BATCH

  return rate(step)


def pipeline(folder: str, num_workers: int, **settings: Any) -> float:
  """Measures this project's input pipeline; `settings` are fields of `ClipBatcher`."""
  from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher

  clips = training_batcher(open_corpus(folder), "train", DRAWN, SIZE, **settings)
  return measure_throughput(clips, BATCH, num_workers, SECONDS).clips_per_second


def tf_data(folder: str, threads: int, native: bool) -> float:
  """Measures tf.data over frames in memory."""
  import cv2
  import tensorflow as tf

  from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

  cv2.setNumThreads(0)
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(threads)

  def decode(jpeg):
    image = tf.cast(tf.io.decode_jpeg(jpeg, channels=3), tf.float32)
    return tf.image.resize(image, (SIZE, SIZE), method="bicubic") / 255

  def tensorflow_ops(frames):
    return (tf.map_fn(decode, frames, fn_output_signature=tf.float32) - MEAN) / STD

  def same_calls(frames):
    return tf.ensure_shape(tf.numpy_function(clip_pixels, [frames], tf.float32), (DRAWN, SIZE, SIZE, 3))

  dataset = tf.data.Dataset.from_tensor_slices(sampled_frames(folder)).repeat()
  dataset = (
    dataset.map(tensorflow_ops if native else same_calls, num_parallel_calls=threads, deterministic=True)
    .batch(BATCH)
    .prefetch(1)
  )
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  iterator = iter(dataset.with_options(options))

  def step():
    next(iterator)
    return BATCH

  return rate(step)


METHODS: dict[str, Callable[[str], float]] = {
  "decoding alone": lambda folder: decoding(folder, False),
  "decoding alone, fast": lambda folder: decoding(folder, True),
  "bare loop": bare,
  "bare loop, preallocated": bare_in_place,
  "bare loop, preallocated, uint8": bare_in_place_uint8,
  "pipeline, threads": lambda folder: pipeline(folder, 0),
  "pipeline, 1 worker": lambda folder: pipeline(folder, 1),
  "pipeline, 2 workers": lambda folder: pipeline(folder, 2),
  "pipeline, uint8, threads": lambda folder: pipeline(folder, 0, pixels="uint8"),
  "pipeline, uint8, 1 worker": lambda folder: pipeline(folder, 1, pixels="uint8"),
  "pipeline, uint8, 2 workers": lambda folder: pipeline(folder, 2, pixels="uint8"),
  "pipeline, uint8, fast, 1 worker": lambda folder: pipeline(folder, 1, pixels="uint8", fast_decode=True),
  "pipeline, uint8, fast, 2 workers": lambda folder: pipeline(folder, 2, pixels="uint8", fast_decode=True),
  "tf.data, same calls, 1 thread": lambda folder: tf_data(folder, 1, False),
  "tf.data, same calls, 2 threads": lambda folder: tf_data(folder, 2, False),
  "tf.data, TensorFlow ops, 1 thread": lambda folder: tf_data(folder, 1, True),
  "tf.data, TensorFlow ops, 2 threads": lambda folder: tf_data(folder, 2, True),
}


def measure(method: str, folder: str) -> float:
  """Measures a method in a new process; returns clips per second."""
  command = [sys.executable, "-m", "benchmarks.throughput", method, folder]
  output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return json.loads(output.splitlines()[-1])


def main() -> None:
  """Writes the corpus, measures and prints a table."""
  with tempfile.TemporaryDirectory() as folder:
    print(
      f"{CLIPS} clips of {FRAMES} frames, {write_corpus(pathlib.Path(folder)):.1f} kB per frame; clips per second:",
      flush=True,
    )
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    methods = [method for method in METHODS if has_tensorflow or not method.startswith("tf.data")]
    rounds = [{method: measure(method, folder) for method in methods} for _ in range(REPEATS)]
  best = {method: max(values[method] for values in rounds) for method in methods}
  for method, value in best.items():
    print(f"{method:34} {value:7.1f}  {value / best['bare loop']:5.2f} of the bare loop")
  one = best["pipeline, 1 worker"]
  print(f"two workers / one worker: {best['pipeline, 2 workers'] / one:.2f}")
  for name in ("uint8", "uint8, fast"):
    print(f"{name} / float32, one worker: {best[f'pipeline, {name}, 1 worker'] / one:.2f}")
  if has_tensorflow:
    print(f"one worker / tf.data with the same calls: {one / best['tf.data, same calls, 1 thread']:.2f}")


if __name__ == "__main__":
  if len(sys.argv) > 1:
    print(json.dumps(METHODS[sys.argv[1]](sys.argv[2])))
  else:
    main()
