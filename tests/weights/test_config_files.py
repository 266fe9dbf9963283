"""Configuration files next to weights: known fields that are CLIP's are accepted, all others refused by name."""

import json

import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights.config_files import read_hints
from clipvip_jax.weights.model_config import Hints

TEXT = {"num_attention_heads": 4, "vocab_size": 100}


def huggingface(text=None, vision=None, **fields):
  return {"text_config": {**TEXT, **(text or {})}, "vision_config": {"patch_size": 8, **(vision or {})}, **fields}


def openclip(text=None, vision=None, **fields):
  sections = {"text_cfg": {"heads": 4, **(text or {})}, "vision_cfg": {"width": 64, **(vision or {})}}
  return {"model_cfg": {**sections, **fields}}


def read(folder, config):
  name = "open_clip_config.json" if "model_cfg" in config else "config.json"
  (folder / name).write_text(json.dumps(config))
  return read_hints(folder)


def test_folder_without_configuration_gives_no_hints(tmp_path):
  assert read_hints(tmp_path) == Hints()


@pytest.mark.parametrize(
  "config",
  [
    huggingface(model_type="clip", transformers_version="4.30", logit_scale_init_value=2.6592, torch_dtype="float32"),
    huggingface({"eos_token_id": 2, "num_beams": 1, "id2label": {}, "model_type": "clip_text_model"}),
    huggingface({"eos_token_id": 99, "attention_dropout": 0.1}, {"num_channels": 3, "layer_norm_eps": 1e-5}),
    huggingface(text_config_dict=None, vision_config_dict=None),
    openclip({"context_length": 77, "pool_type": "argmax"}, {"patch_dropout": 0.5}, custom_text=True),
    openclip(
      {"act_kwargs": {}, "no_causal_mask": False, "tokenizer_mode": None}, {"timm_model_name": None, "no_ln_pre": False}
    ),
  ],
)
def test_fields_of_clip_are_accepted(tmp_path, config):
  assert read(tmp_path, config).text_heads == 4


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (huggingface({"use_rope": True}), "text_config.use_rope is unknown and may change the features; remove the field"),
    (huggingface(vision={"window_size": 7}), "vision_config.window_size is unknown"),
    (huggingface(quantization_config={"bits": 4}), "quantization_config is unknown"),
    (huggingface(model_type="metaclip_2"), "model_type='metaclip_2' is not supported; CLIP has 'clip'"),
    (huggingface({"model_type": "bert"}), "text_config.model_type='bert' is not supported; CLIP has 'clip_text_model'"),
    ({"model_type": "metaclip_2"}, "model_type='metaclip_2' is not supported; CLIP has 'clip'"),
    ({"model_type": None, "hidden_size": 64}, "model_type=None is not supported"),
    ({"model_type": "clip_vision_model", "patch_size": 8}, "model_type='clip_vision_model' is not supported"),
    ({"architectures": ["SiglipModel"]}, r"architectures=\['SiglipModel'\] is not supported; CLIP has \['CLIPModel'\]"),
    (huggingface(auto_map={"AutoModel": "modeling.Own"}), "auto_map=.* is not supported; CLIP has None"),
    (huggingface(vision={"pruned_heads": {"0": [1]}}), "vision_config.pruned_heads=.* is not supported"),
    (huggingface({"eos_token_id": [5, 99]}), r"eos_token_id=\[5, 99\] must be an integer of at least 1"),
    (huggingface(clipvip_jax={"tint": "x"}), "clipvip_jax.tint is unknown; use the version of this project that wrote"),
    (huggingface(vision_additional_config={"type": "ViP", "window": 3}), "vision_additional_config.window is unknown"),
    (openclip(quick_gelu="false"), "model_cfg.quick_gelu='false' is not supported; CLIP has True or False"),
    (openclip(quick_gelu=1), "model_cfg.quick_gelu=1 is not supported"),
    ({**openclip(), "pooling": "mean"}, "pooling is unknown and may change the features; remove the field"),
    ({**openclip(), "vision_cfg": {"width": 64}}, "vision_cfg is unknown"),
    (huggingface(vision={"num_channels": 1}), "vision_config.num_channels=1 is not supported; CLIP has 3"),
    (openclip({"pool_type": "last"}), "text_cfg.pool_type='last' is not supported; CLIP has 'argmax'"),
    (openclip({"tokenizer_kwargs": {"clean": "canonicalize"}}), "tokenizer_kwargs=.* is not supported"),
    (openclip(vision={"norm_kwargs": {"eps": 1e-6}}), r"vision_cfg.norm_kwargs=\{'eps': 1e-06\} is not supported"),
    (openclip(vision={"no_ln_pre": True}), "vision_cfg.no_ln_pre=True is not supported; CLIP has False"),
    (openclip(vision={"rope": True}), "vision_cfg.rope is unknown"),
    (openclip(multimodal_cfg={"layers": 2}), "multimodal_cfg=.* is not supported; CLIP has None"),
  ],
)
def test_field_that_may_change_the_features_is_refused_by_name(tmp_path, config, message):
  with pytest.raises(UserError, match=message):
    read(tmp_path, config)


L14 = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
H14 = {"hidden_act": "gelu", "hidden_size": 1280, "num_attention_heads": 16, "num_hidden_layers": 32, "patch_size": 14}


@pytest.mark.parametrize(
  ("text", "vision"),
  [
    # As published: every field, of which the second section repeats those that differ from the defaults.
    ({**L14, "hidden_act": "quick_gelu", "eos_token_id": 2, "vocab_size": 49408, "dropout": 0.0}, {"image_size": 224}),
    ({**L14, "hidden_act": "gelu", "eos_token_id": 49407}, {**H14, "image_size": 224, "num_channels": 3}),
  ],
)
def test_second_section_that_repeats_the_first_is_accepted(tmp_path, text, vision):
  seconds = {"text_config_dict": {**L14, "hidden_act": text["hidden_act"]}, "vision_config_dict": {**vision}}
  vision = {**vision, "hidden_act": text["hidden_act"]}
  seconds["vision_config_dict"]["hidden_act"] = text["hidden_act"]
  hints = read(tmp_path, {"text_config": text, "vision_config": vision, **seconds})
  assert (hints.activation, hints.text_heads) == (text["hidden_act"], 12)
  assert read(tmp_path, {"model_type": "clip", **seconds}).text_heads == 12


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    ({"hidden_act": "gelu"}, {}, r"_dict has hidden_act='quick_gelu' by default, .* has 'gelu'; correct .*_config or"),
    ({"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"}, "_dict has hidden_act='quick_gelu', which transformers"),
    (
      {"num_attention_heads": 4},
      {"hidden_size": 64},
      r"_dict has num_attention_heads=\d+ by default, .* has 4; correct",
    ),
  ],
)
@pytest.mark.parametrize("name", ["text_config", "vision_config"])
def test_second_section_that_contradicts_the_first_is_refused(tmp_path, name, first, second, message):
  with pytest.raises(UserError, match=f"{name}{message}"):
    read(tmp_path, {"model_type": "clip", name: first, f"{name}_dict": second})


def test_end_token_that_a_second_section_changes_is_refused(tmp_path):
  config = {"text_config": {"eos_token_id": 5}, "text_config_dict": {}}
  with pytest.raises(UserError, match=r"text_config_dict has eos_token_id=49407 by default, .* text_config has 5"):
    read(tmp_path, config)


@pytest.mark.parametrize(
  ("config", "sizes"),
  [
    (huggingface({"intermediate_size": 96}, {"intermediate_size": 128}), (96, 128)),
    (openclip({"width": 48, "mlp_ratio": 2}, {"mlp_ratio": 1.5}), (96, 96)),
    (openclip({"mlp_ratio": 3}, {"width": 1408, "mlp_ratio": 4.3637}), (1536, 6144)),  # 512 by default; ViT-g
    (openclip(), (None, None)),
  ],
)
def test_sizes_of_the_mlp_are_read(tmp_path, config, sizes):
  hints = read(tmp_path, config)
  assert (hints.sizes.get("text.mlp"), hints.sizes.get("vision.mlp")) == sizes


@pytest.mark.parametrize("value", [[1], "x", 1.5, float("nan"), 10**30, True])
@pytest.mark.parametrize(
  "path",
  [
    ("text_config",),
    ("vision_config",),
    ("vision_additional_config",),
    ("model_cfg", "vision_cfg"),
    ("model_cfg", "text_cfg"),
  ],
)
def test_a_section_that_is_not_an_object_is_refused_by_name(tmp_path, path, value):
  config = huggingface() if len(path) == 1 else openclip()
  (config[path[0]] if len(path) > 1 else config)[path[-1]] = value
  with pytest.raises(UserError, match=rf"config\.json: {path[-1]} must be a JSON object, not ") as refused:
    read(tmp_path, config)
  assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("width", "ratio"), [(10**400, 4.0), (10**306, 1000.0)])
def test_width_beyond_floating_point_is_refused(tmp_path, width, ratio):
  with pytest.raises(UserError, match=r"open_clip_config\.json is not a configuration of CLIP \(OverflowError"):
    read(tmp_path, openclip(vision={"width": width, "mlp_ratio": ratio}))


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
def test_configuration_that_is_a_broken_link_is_not_ignored(tmp_path, name):
  (tmp_path / name).symlink_to("blob-that-was-not-downloaded")
  with pytest.raises(UserError, match=rf"{name} is not a file, but a folder or a broken link"):
    read_hints(tmp_path)


@pytest.mark.parametrize("ratio", [0, -1, "4", True, 1e300, float("nan")])
def test_ratio_of_an_mlp_that_is_not_positive_is_refused(tmp_path, ratio):
  with pytest.raises(UserError, match=r"text_cfg\.mlp_ratio=.* must be a number above 0"):
    read(tmp_path, openclip({"mlp_ratio": ratio}))


@pytest.mark.parametrize(
  "content", ['{"model_type": "clip", "model_type": "siglip"}', '{"text_config": {"a": 1, "a": 2}}']
)
def test_a_key_that_occurs_twice_is_refused(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError, match=r"config\.json is not a configuration of CLIP .*contains '.*' twice"):
    read_hints(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "a Git LFS pointer, .*run `git lfs pull`"),
    ("<!DOCTYPE html><html>404</html>", "a web page; download the file itself"),
  ],
)
def test_placeholder_of_a_failed_download_is_refused_as_such(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=rf"{name}: this is {message}"):
    read_hints(tmp_path)


@pytest.mark.parametrize("content", [{"architecture": "vit_base"}, {"model": {}, "data": {}, "train": {}}, {}])
def test_configuration_that_is_not_of_transformers_is_ignored(tmp_path, content):
  assert read(tmp_path, content) == Hints()


@pytest.mark.parametrize("config", [{"model_type": "clip"}, {"architectures": ["CLIPModel"]}])
def test_model_without_sections_has_the_defaults_of_transformers(tmp_path, config):
  assert read(tmp_path, config) == Hints("quick_gelu", 12, 8)


def test_omitted_heads_of_openclip_are_the_defaults_of_its_classes(tmp_path):
  config = {"model_cfg": {"vision_cfg": {"layers": 12}, "text_cfg": {"width": 768}}}
  assert (read(tmp_path, config).vision_heads, read(tmp_path, config).text_heads) == (12, 8)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (huggingface({"hidden_act": "gelu"}, {"hidden_act": "gelu", "num_attention_heads": 2}), "vision_heads=2 .* has 1"),
    (huggingface(vision={"num_attention_heads": 1}), "activation='quick_gelu' contradicts open_clip_config.json"),
  ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path, other, message):
  read(tmp_path, openclip())
  with pytest.raises(UserError, match=f"config.json: {message}"):
    read(tmp_path, other)


@pytest.mark.parametrize(("kind", "temporal", "sizes"), [("ViP", "proxies", (3, 12)), ("CLIP", "mean", (None, None))])
def test_configuration_that_the_code_of_clip_vip_saves_is_read(tmp_path, kind, temporal, sizes):
  added = {"type": kind, "temporal_size": 12, "if_use_temporal_embed": 1, "logit_scale_init_value": 4.6}
  hints = read(tmp_path, huggingface(vision_additional_config={**added, "add_cls_num": 3}))
  assert hints.temporal == temporal
  assert (hints.sizes.get("vision.added_proxies"), hints.sizes.get("vision.time_positions")) == sizes
  hints = read(tmp_path, huggingface(vision_additional_config={**added, "add_cls_num": 0, "if_use_temporal_embed": 0}))
  assert not {"vision.added_proxies", "vision.time_positions"} & hints.sizes.keys()
