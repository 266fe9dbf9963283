"""Writes a corpus to disk without a builder and without TensorFlow."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds


def features():
  """Returns the features of the project's corpora."""
  text = tfds.features.Text
  jpeg = tfds.features.Tensor(shape=(), dtype=np.object_)
  return tfds.features.FeaturesDict(
    {
      "id": text(),
      "frames": tfds.features.Sequence(jpeg),
      "num_frames": np.int32,
      "subtitle": text(),
      "caption": text(),
      "description": tfds.features.Sequence(text()),
    }
  )


def write(data_dir, records, name="shapes", config="", version="1.0.0", split="train", metadata=None) -> pathlib.Path:
  """Writes and returns DATA_DIR/NAME/CONFIG/VERSION. Missing fields of records are empty."""
  folder = pathlib.Path(data_dir, name, config, version)
  folder.mkdir(parents=True)
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=name, version=version, data_dir=str(folder), module_name="", config_name=config or None
  )
  info = tfds.core.DatasetInfo(
    builder=identity, features=features(), metadata=tfds.core.MetadataDict(metadata) if metadata else None
  )
  writer = tfds.core.SequentialWriter(info, max_examples_per_shard=64, overwrite=True, file_format="array_record")
  writer.initialize_splits([split])
  empty = {"subtitle": "", "caption": "", "description": []}
  for record in records:
    writer.add_examples({split: [{**empty, "num_frames": len(record["frames"]), **record}]})
  writer.close_all()
  return folder
