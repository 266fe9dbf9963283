"""Miniatures of corpora: writes video files and annotations, builds corpora and trains on them."""

import io
import json
import pathlib
import tarfile

import numpy as np
from etils import epath

from clipvip_jax.configs import post_pretrain
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.input_pipeline.video_encoder import encode_h264
from clipvip_jax.training import trainer


def moving_frames(count=12, seed=0, height=48, width=64):
  """Returns uint8 [count, height, width, 3]: a picture shifted by two pixels per frame."""
  coarse = np.random.default_rng(seed).integers(40, 216, (4, 6, 3)).astype(np.float64)
  tall = np.kron(coarse, np.ones((-(-height // 4), -(-width // 6), 1))).astype(np.uint8)
  return np.stack([np.roll(tall, 2 * i, axis=1)[:height, :width] for i in range(count)])


def write_video(path, count=12, fps=6, seed=0, **size):
  """Writes an H.264 mp4 of `moving_frames`; creates its folder."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  encode_h264(path, moving_frames(count, seed, **size), fps)
  return path


def write_sound(path):
  """Writes an mp4 without a video stream."""
  import av

  with av.open(str(path), "w", format="mp4") as container:
    stream = container.add_stream("aac", rate=16000, layout="mono")
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    sound.sample_rate = 16000
    container.mux(stream.encode(sound))
    container.mux(stream.encode())


def write_lines(path, rows):
  """Writes JSON lines."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  return path


def write_tar(path, members):
  """Writes a tar file; members: {name: bytes, text, JSON, or a tarfile.TarInfo without content}."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for name, data in members.items():
      if isinstance(data, tarfile.TarInfo):
        tar.addfile(data.replace(name=name))
        continue
      data = json.dumps(data) if isinstance(data, dict) else data
      data = data.encode() if isinstance(data, str) else data
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return path


def tar_link(target, kind=tarfile.LNKTYPE):
  """Returns a link for `write_tar`: a hard link, or tarfile.SYMTYPE."""
  link = tarfile.TarInfo()
  link.type, link.linkname = kind, target
  return link


def build(builder_class, config, data_dir, raw_dir, **options):
  """Builds a corpus and returns its builder. By default, official sizes are not checked."""
  options = BuildOptions(**{"raw_dir": str(raw_dir), "check_sizes": False, **options})
  builder = builder_class(config=config, data_dir=str(data_dir), file_format="array_record", options=options)
  builder.download_and_prepare()
  return builder


def planned(builder_class, config, folder, **options):
  """Returns {split: items} of the files in `folder` without decoding. Options are those of `build`."""
  options = BuildOptions(**{"raw_dir": str(folder), "check_sizes": False, **options})
  builder = builder_class(config=config, data_dir=str(folder / "corpora"), options=options)
  plan = builder.plan(epath.Path(folder / "plan"))
  found = {split: [] for split in plan.counts}
  for shard in plan.shards():
    found[shard.split] += plan.items(shard)
  return found


def read_back(builder, split):
  """Returns [{field: value}] of a split, texts as strings."""

  def plain(value):
    if isinstance(value, bytes) and not value.startswith(b"\xff\xd8"):
      return value.decode()
    return [plain(v) for v in value] if isinstance(value, list | np.ndarray) else value

  return [{key: plain(value) for key, value in record.items()} for record in builder.as_data_source(split)]


def train_two_steps(builder, workdir, recipe=None, **fields):
  """Trains the smallest model for two steps on a built corpus, and returns its results.json.

  Args:
    builder: Builder of the corpus.
    workdir: Folder of the run.
    recipe: Configuration; by default post_pretrain's smoke variant.
    **fields: Changed fields, {"data.subtitle": VALUE}.
  """
  config = recipe or post_pretrain.get_config("smoke")
  with config.unlocked():
    name = builder.info.full_name.split("/")
    config.data.update({"name": name[0], "config": name[1], "prepare": False, "data_dir": str(builder.data_dir_root)})
    config.data.num_frames = 3
    config.train.update({"batch_size": 8, "num_steps": 2, "eval_every": 2, "checkpoint_every": 2})
    config.evaluate.update({"batch_size": 8, "num_examples": 1})
    config.update_from_flattened_dict(fields)
  return trainer.train(config.lock(), pathlib.Path(workdir))


def small(config):
  """Shrinks a recipe's model to one narrow block per tower with a vocabulary of the corpus' words."""
  tower = {"width": 32, "layers": 1, "heads": 2, "mlp": 64}
  with config.unlocked():
    config.init_from = ""
    config.model.update({"image_size": 64, "embed_dim": 32, "dtype": "float32", "vision": tower})
    config.model.text.update({**tower, "vocab_size": 512})
    config.data.tokenizer = "words"
    config.host.update({"num_workers": 0, "log_every": 1})
  return config


def encode(path, frames, codec, rate=12, times=None, start=0, **options):
  """Writes frames with any FFmpeg codec; `times`: timestamps in seconds; `start`: of the container's clock."""
  import fractions

  import av

  pixel_format = options.pop("pix_fmt", "yuv420p")
  with av.open(str(path), "w", options={"output_ts_offset": str(start)}) as container:
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pixel_format
    unit = fractions.Fraction(1, rate) if times is None else fractions.Fraction(1, 1000)
    stream.codec_context.time_base = unit
    for index, frame in enumerate(frames):
      picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixel_format)
      picture.time_base = unit
      picture.pts = index if times is None else round(times[index] / unit)
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  return pathlib.Path(path)
