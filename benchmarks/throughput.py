"""How many clips a second become batches, against a loop over the same library calls and against tf.data.

  python -m benchmarks.throughput

A clip is 12 of 44 stored JPEGs (320 x 240, quality 92, 4:2:0), at 224 x 224 in normalised float32. Prints the clips a
second of

- the bare loop, one thread: frames that are in memory already through simplejpeg, OpenCV and NumPy, and np.stack;
- the same with all memory allocated beforehand, which is the most that these calls can give;
- the pipeline with threads alone, one and two worker processes: records of an ArrayRecord file, shuffled, with texts;
- tf.data with one and two threads: the bare loop's calls in tf.numpy_function, and TensorFlow's own operations.

Each figure is the best of REPEATS rounds through all of them, so that a busy moment counts for none; each run is a
process of its own.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

CLIPS, FRAMES, HEIGHT, WIDTH, QUALITY = 64, 44, 240, 320, 92
DRAWN, SIZE, BATCH = 12, 224, 16
SECONDS, REPEATS = 4.0, 3


def camera_frames(rng: np.random.Generator) -> Iterator[np.ndarray]:
  """A panning view of a soft picture with sensor noise: JPEGs of about 20 kB, as of a camera."""
  import cv2

  view = np.full((300, 380, 3), 128.0, np.float32)
  for cells, contrast in ((6, 30), (12, 25), (24, 20), (48, 12), (96, 6), (190, 3)):
    grid = rng.normal(size=(cells * 3 // 4, cells, 3)).astype(np.float32)
    view += contrast * cv2.resize(grid, (380, 300), interpolation=cv2.INTER_CUBIC)
  for i in range(FRAMES):
    x, y = int(20 + 15 * np.sin(i / 7)), int(20 + 10 * np.cos(i / 9))
    frame = view[y : y + HEIGHT, x : x + WIDTH] + rng.normal(size=(HEIGHT, WIDTH, 3)) * 2
    yield np.clip(frame, 0, 255).astype(np.uint8)


def write_corpus(folder: pathlib.Path) -> float:
  """Writes the corpus; returns the mean size of a frame in kB."""
  import simplejpeg

  from tests.support import written_corpus

  rng = np.random.default_rng(0)
  sizes = []

  def records():
    for i in range(CLIPS):
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
  """The corpus' records."""
  import tensorflow_datasets as tfds

  from clipvip_jax.input_pipeline.corpus import Corpus

  return Corpus(tfds.builder_from_directory(pathlib.Path(folder, "camera", "1.0.0")))


def drawn(folder: str) -> list[list[bytes]]:
  """The frames of each clip that are drawn."""
  records = open_corpus(folder).records("train")
  return [[record["frames"][i] for i in np.linspace(0, FRAMES - 1, DRAWN).astype(int)] for record in records]


def clip_pixels(frames: list[bytes]) -> np.ndarray:
  """float32 [12, 224, 224, 3], as one would write it down."""
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
  """Clips a second of a function that gives a number of clips."""
  step()
  clips, started = 0, time.perf_counter()
  while time.perf_counter() - started < SECONDS:
    clips += step()
  return clips / (time.perf_counter() - started)


def bare(folder: str) -> float:
  """One thread, new arrays."""
  import cv2

  cv2.setNumThreads(0)
  clips = drawn(folder)

  def step():
    np.stack([clip_pixels(frames) for frames in clips[:BATCH]])
    return BATCH

  return rate(step)


def bare_in_place(folder: str) -> float:
  """One thread, the batch and a frame in float32 allocated once."""
  import cv2
  import simplejpeg

  from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

  cv2.setNumThreads(0)
  clips = drawn(folder)
  batch = np.empty((BATCH, DRAWN, SIZE, SIZE, 3), np.float32)
  frame = np.empty((HEIGHT, WIDTH, 3), np.float32)
  scale = np.tile(1 / (255 * np.array(STD)), SIZE).astype(np.float32)
  shift = np.tile(np.array(MEAN) / np.array(STD), SIZE).astype(np.float32)

  def step():
    for frames, places in zip(clips[:BATCH], batch, strict=True):
      for jpeg, place in zip(frames, places, strict=True):
        np.copyto(frame, simplejpeg.decode_jpeg(jpeg))
        cv2.resize(frame, (SIZE, SIZE), dst=place, interpolation=cv2.INTER_CUBIC)
        rows = place.reshape(SIZE, -1)
        rows *= scale
        rows -= shift
    return BATCH

  return rate(step)


def pipeline(folder: str, num_workers: int) -> float:
  """Ours."""
  from clipvip_jax.input_pipeline.throughput import measure_throughput, training_batcher

  clips = training_batcher(open_corpus(folder), "train", DRAWN, SIZE)
  return measure_throughput(clips, BATCH, num_workers, SECONDS).clips_per_second


def tf_data(folder: str, threads: int, native: bool) -> float:
  """tf.data over frames that are in memory already."""
  import cv2
  import tensorflow as tf

  from clipvip_jax.input_pipeline.preprocessing import MEAN, STD

  cv2.setNumThreads(0)
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(threads)

  def decode(jpeg):
    image = tf.cast(tf.io.decode_jpeg(jpeg, channels=3), tf.float32)
    return tf.image.resize(image, (SIZE, SIZE), method="bicubic") / 255

  def own(frames):
    return (tf.map_fn(decode, frames, fn_output_signature=tf.float32) - MEAN) / STD

  def same_calls(frames):
    return tf.ensure_shape(tf.numpy_function(clip_pixels, [frames], tf.float32), (DRAWN, SIZE, SIZE, 3))

  found = tf.data.Dataset.from_tensor_slices(drawn(folder)).repeat()
  found = (
    found.map(own if native else same_calls, num_parallel_calls=threads, deterministic=True).batch(BATCH).prefetch(1)
  )
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  iterator = iter(found.with_options(options))

  def step():
    next(iterator)
    return BATCH

  return rate(step)


WAYS: dict[str, Callable[[str], float]] = {
  "bare loop": bare,
  "bare loop, memory used again": bare_in_place,
  "pipeline, threads": lambda folder: pipeline(folder, 0),
  "pipeline, 1 worker": lambda folder: pipeline(folder, 1),
  "pipeline, 2 workers": lambda folder: pipeline(folder, 2),
  "tf.data, same calls, 1 thread": lambda folder: tf_data(folder, 1, False),
  "tf.data, same calls, 2 threads": lambda folder: tf_data(folder, 2, False),
  "tf.data, TensorFlow's, 1 thread": lambda folder: tf_data(folder, 1, True),
  "tf.data, TensorFlow's, 2 threads": lambda folder: tf_data(folder, 2, True),
}


def measured(way: str, folder: str) -> float:
  """One run."""
  command = [sys.executable, "-m", "benchmarks.throughput", way, folder]
  output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return json.loads(output.splitlines()[-1])


def main() -> None:
  """Writes the corpus, measures, prints a table."""
  with tempfile.TemporaryDirectory() as folder:
    print(
      f"{CLIPS} clips of {FRAMES} frames, {write_corpus(pathlib.Path(folder)):.1f} kB a frame; clips a second:",
      flush=True,
    )
    rounds = [{way: measured(way, folder) for way in WAYS} for _ in range(REPEATS)]
  found = {way: max(run[way] for run in rounds) for way in WAYS}
  for way, value in found.items():
    print(f"{way:34} {value:7.1f}  {value / found['bare loop']:5.2f} of the bare loop")
  one = found["pipeline, 1 worker"]
  print(f"two workers against one {found['pipeline, 2 workers'] / one:.2f}")
  print(f"one worker against tf.data with the same calls {one / found['tf.data, same calls, 1 thread']:.2f}")


if __name__ == "__main__":
  if len(sys.argv) > 1:
    print(json.dumps(WAYS[sys.argv[1]](sys.argv[2])))
  else:
    main()
