"""Configuration files of published layouts."""

import json

import pytest
import tiny

from clipvip_jax.input_pipeline.preprocessing import MEAN, STD
from clipvip_jax.weights import layout_configs
from clipvip_jax.weights.config_files import read_hints
from clipvip_jax.weights.pixel_normalization import is_clip, read_normalization


def test_clip_layout_has_the_fields_that_transformers_needs():
  config = layout_configs.model_config(tiny.config(0, 0), "clip", 99)
  assert config["model_type"] == "clip" and config["architectures"] == ["CLIPModel"]
  assert config["vision_config"]["image_size"] == 32 and config["text_config"]["eos_token_id"] == 99


def test_clip_vip_layout_names_no_class_of_transformers():
  config = layout_configs.model_config(tiny.config(), "clip_vip", 99)
  assert "architectures" not in config and config["model_type"] == "clip_vip"


@pytest.mark.parametrize("layout", ["clip", "clip_vip", "openclip"])
def test_configuration_is_read_back(tmp_path, layout):
  config = tiny.config(0, 0)
  name = "open_clip_config.json" if layout == "openclip" else "config.json"
  (tmp_path / name).write_text(json.dumps(layout_configs.model_config(config, layout, 99)))
  if layout != "openclip":
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(layout_configs.preprocessor_config(config)))
  hints = read_hints(tmp_path)
  assert (hints.activation, hints.vision_heads, hints.text_heads) == ("quick_gelu", 4, 4)
  normalization = read_normalization(tmp_path)
  assert normalization is not None and is_clip(normalization)


@pytest.mark.parametrize("layout", ["clip", "openclip"])
def test_frames_are_cropped_by_other_programs_as_in_the_run(tmp_path, layout):
  config = layout_configs.model_config(tiny.config(0, 0), "openclip", 99, "center")
  assert config["preprocess_cfg"]["resize_mode"] == "shortest"
  if layout == "clip":
    config = layout_configs.preprocessor_config(tiny.config(0, 0), "center")
    assert config["size"] == {"shortest_edge": 32} and config["crop_size"] == {"height": 32, "width": 32}
    assert config["do_center_crop"] is True
  name = "preprocessor_config.json" if layout == "clip" else "open_clip_config.json"
  (tmp_path / name).write_text(json.dumps(config))
  assert read_normalization(tmp_path) is not None


def test_frames_are_squashed_in_every_layout():
  openclip = layout_configs.model_config(tiny.config(0, 0), "openclip", 99)["preprocess_cfg"]
  assert openclip == {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "squash"}
  huggingface = layout_configs.preprocessor_config(tiny.config(0, 0))
  assert huggingface["size"] == {"height": 32, "width": 32} and not huggingface["do_center_crop"]


@pytest.mark.parametrize(("width", "mlp"), [(64, 128), (88, 120), (1408, 6144), (104, 504), (152, 424)])
def test_openclip_computes_the_width_of_the_mlp(width, mlp):
  config = tiny.config(0, 0)
  config.vision.update({"width": width, "mlp": mlp})
  vision = layout_configs.model_config(config, "openclip", 99)["model_cfg"]["vision_cfg"]
  assert int(vision["width"] * json.loads(json.dumps(vision["mlp_ratio"]))) == mlp
