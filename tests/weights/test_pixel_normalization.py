"""Normalization of pixels next to the weights: folded into them, equal to normalizing the pixels."""

import json

import numpy as np
import pytest
import tiny
from numeric import assert_close
from project_paths import GOLDEN
from safetensors.numpy import load_file, save_file

from clipvip_jax.input_pipeline.preprocessing import MEAN, STD
from clipvip_jax.models import clip_vip
from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import load_params, sources
from clipvip_jax.weights.model_config import Hints

HEADS = Hints(activation="quick_gelu", vision_heads=4, text_heads=4)
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
UNEQUAL = {"mean": [0.1, 0.5, 0.7], "std": [0.2, 0.3, 0.9]}
OPENCLIP = {"model_cfg": {"vision_cfg": {"head_width": 16}, "text_cfg": {"heads": 4}, "quick_gelu": True}}


def folder(path, preprocessor=None, preprocess_cfg=None, processor=None, name="vip_tiny.safetensors"):
  path.mkdir()
  (path / "model.safetensors").write_bytes((GOLDEN / name).read_bytes())
  if preprocessor is not None:
    content = preprocessor if isinstance(preprocessor, str) else json.dumps(preprocessor)
    (path / "preprocessor_config.json").write_text(content)
  if processor is not None:
    (path / "processor_config.json").write_text(json.dumps(processor))
  if preprocess_cfg is not None:
    (path / "open_clip_config.json").write_text(json.dumps({**OPENCLIP, "preprocess_cfg": preprocess_cfg}))
  return str(path)


def features(weights, pixels):
  net = clip_vip.from_config(weights.config)
  return net.apply({"params": tiny.nested(weights.params)}, pixels.astype(np.float32), method="embed_video")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("files", "mean", "std"),
  [
    ({"preprocessor": HALF}, 0.5, 0.5),
    (
      {"preprocessor": {"image_processor_type": "SiglipImageProcessor", **HALF, "rescale_factor": 0.00392157}},
      0.5,
      0.5,
    ),
    ({"preprocessor": {"do_normalize": False, **HALF}}, 0.0, 1.0),
    ({"preprocess_cfg": UNEQUAL}, UNEQUAL["mean"], UNEQUAL["std"]),
    ({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}, "preprocessor": HALF}, 0.5, 0.5),
    ({"processor": {"image_processor": HALF, "processor_class": "CLIPProcessor"}}, 0.5, 0.5),
  ],
)
def test_features_are_those_of_pixels_with_the_stated_normalization(tmp_path, files, mean, std):
  pixels = np.random.default_rng(0).uniform(size=(2, 3, 32, 32, 3))
  expected = features(sources.read_weights(folder(tmp_path / "plain"), HEADS), (pixels - mean) / std)
  folded = sources.read_weights(folder(tmp_path / "model", **files), HEADS)
  assert_close(features(folded, (pixels - MEAN) / STD), expected)


@pytest.mark.parametrize(
  "name", ["CLIPFeatureExtractor", "CLIPImageProcessorFast", "SiglipImageProcessor", "BlipImageProcessorPil"]
)
def test_processor_that_is_bicubic_by_default_may_omit_resample(tmp_path, name):
  preprocessor = {"image_processor_type": name, "image_mean": MEAN, "image_std": STD}
  sources.read_weights(folder(tmp_path / "model", preprocessor), HEADS)


def test_values_that_folding_makes_infinite_are_found(tmp_path):
  path = folder(tmp_path / "model", {"image_mean": [0.5] * 3, "image_std": [1e-6] * 3})
  tensors = load_file(GOLDEN / "vip_tiny.safetensors")
  name = "clipmodel.vision_model.embeddings.patch_embedding.weight"
  save_file({**tensors, name: np.full_like(tensors[name], 1e38)}, tmp_path / "model" / "model.safetensors")
  found = load_params.describe_not_finite(sources.read_weights(path, HEADS).params)
  assert "values are NaN or infinite: vision/" in found and "vision/patch_embedding (" in found


@pytest.mark.parametrize("preprocessor", [{}, {"image_mean": MEAN, "image_std": STD, "resample": 3}])
def test_weights_with_the_normalization_of_clip_are_unchanged(tmp_path, preprocessor):
  weights = sources.read_weights(folder(tmp_path / "model", preprocessor), HEADS)
  plain = sources.read_weights(str(GOLDEN / "vip_tiny.safetensors"), HEADS)
  for name in ("vision/patch_embedding", "vision/position_embedding"):
    np.testing.assert_array_equal(weights.params[name], plain.params[name])


@pytest.mark.parametrize(
  ("files", "message"),
  [
    ({"preprocessor": {**HALF, "resample": 2}}, "resample=2 is not supported; CLIP has 3"),
    ({"preprocessor": {**HALF, "do_rescale": False}}, "do_rescale=False is not supported; CLIP has True"),
    ({"preprocessor": {"rescale_factor": 1 / 127.5}}, r"rescale_factor=0\.00784.* is not supported"),
    ({"preprocessor": {**HALF, "do_normalize": "false"}}, "do_normalize='false' is not supported; CLIP has True"),
    ({"preprocessor": '{"image_mean": [0, 0, 0], "image_mean": [1, 1, 1]}'}, "contains 'image_mean' twice"),
    ({"preprocessor": {**HALF, "do_flip": True}}, "do_flip is unknown and may change the features; remove the field"),
    (
      {"preprocessor": {"image_processor_type": "ViTImageProcessor", "resample": 3}},
      "without image_mean and image_std; add",
    ),
    (
      {"preprocessor": {**HALF, "image_processor_type": "ViTImageProcessor"}},
      "'ViTImageProcessor' without resample; add",
    ),
    ({"processor": {"image_processor": {"image_processor_type": "Siglip2ImageProcessor"}}}, "without resample; add"),
    ({"preprocessor": {"feature_extractor_type": "ViTFeatureExtractor", "do_normalize": False}}, "without resample"),
    ({"preprocessor": {**HALF, "image_std": [0, 1, 1]}}, r"image_std=\[0, 1, 1\] must be from 1e-06 to 2, of pixels"),
    ({"preprocessor": {**HALF, "image_std": 127.5}}, r"image_std=.* must be from 1e-06 to 2, .* divide values of"),
    ({"preprocessor": {**HALF, "image_mean": [127.5] * 3}}, r"image_mean=\[127\.5, .* must be from -1 to 1, of pixels"),
    ({"preprocess_cfg": {**UNEQUAL, "mean": [0.5, 0.5, 1e300]}}, r"preprocess_cfg\.mean=.* must be from -1 to 1"),
    ({"preprocess_cfg": {**UNEQUAL, "std": [0.5, 0.5, float("nan")]}}, r"preprocess_cfg\.std=.* must be from 1e-06"),
    ({"preprocessor": {**HALF, "image_mean": [0.5, 0.5]}}, r"image_mean=\[0\.5, 0\.5\] must be three numbers"),
    ({"preprocessor": "<html></html>"}, r"preprocessor_config\.json: this is a web page; download the file itself"),
    ({"preprocessor": "version https://git-lfs.github.com/spec/v1"}, r"preprocessor_config\.json: this is a Git LFS"),
    ({"preprocessor": "{"}, r"preprocessor_config\.json is not a configuration of preprocessing"),
    ({"preprocess_cfg": {"interpolation": "bilinear"}}, r"preprocess_cfg\.interpolation='bilinear' is not supported"),
    ({"preprocess_cfg": [1]}, r"open_clip_config\.json: preprocess_cfg must be a JSON object, not \[1\]"),
    ({"processor": {"image_processor": [1]}}, r"processor_config\.json is not a configuration of preprocessing"),
    ({"preprocess_cfg": {"mode": "L"}}, r"preprocess_cfg\.mode='L' is not supported; CLIP has 'RGB'"),
    ({"processor": {"image_processor": {**HALF, "resample": 2}}}, "processor_config.json: resample=2 is not supported"),
    ({"processor": {"image_processor": {}}, "preprocessor": HALF}, "state different means or deviations of pixels"),
    ({"preprocess_cfg": UNEQUAL, "preprocessor": HALF}, "state different means or deviations of pixels; fix one"),
  ],
)
def test_preprocessing_that_is_not_supported_is_refused(tmp_path, files, message):
  with pytest.raises(UserError, match=message):
    sources.read_weights(folder(tmp_path / "model", **files), HEADS)
