"""Rejected configurations: the message names field, value and remedy."""

import pytest
from project_paths import ROOT
from small_runs import config, mixed_config

from clipvip_jax.configs import post_pretrain
from clipvip_jax.runs import workdir
from clipvip_jax.training import config_checks
from clipvip_jax.utils import config_tree
from clipvip_jax.utils.errors import UserError

REJECTED = [
  ({"loss": "vsc_cf"}, r"loss='vsc_cf' is unknown; allowed: .*vsc_fc"),
  ({"train.batch_size": 12}, r"train\.batch_size=12 .*8 devices.*8 (and|or) 16"),
  ({"evaluate.batch_size": 4}, r"evaluate\.batch_size=4 .*8 devices"),
  ({"optimizer.schedule": "cosin"}, r"optimizer\.schedule='cosin' is unknown; allowed: cosine, linear"),
  ({"model.patch_size": 7}, r"model\.image_size=32 .*model\.patch_size=7"),
  ({"data.text_length": 40}, r"data\.text_length=40 exceeds model\.text\.positions=28; use at most 28"),
  ({"data.text_length": 1}, r"data\.text_length=1 must be at least 2"),
  ({"data.crop": "middle"}, r"data\.crop='middle' is unknown; use squash or center"),
  ({"data.pixels": "int8"}, r"data\.pixels='int8' is unknown; use float32 or uint8"),
  ({"seed": -1}, r"seed=-1 must be at least 0"),
  ({"seed": 2**32}, r"seed=4294967296 must be at most 4294967295"),
  ({"seed": 2**63}, r"seed=9223372036854775808 must be at most 4294967295"),
  ({"train.num_steps": 3_000_000_000}, r"train\.num_steps=3000000000 must be at most 2147483647"),
  ({"data.num_frames": 10**9}, r"data\.num_frames=1000000000 must be at most 10000"),
  ({"model.vision.layers": 10**9}, r"model\.vision\.layers=1000000000 must be at most 1000"),
  ({"model.text.width": 2 * 10**9}, r"model\.text\.width=2000000000 must be at most 1048576"),
  ({"model.temporal": "sequence", "model.sequence_layers": 10**9}, r"sequence_layers=1000000000 must be at most 1000"),
  ({"evaluate.batch_size": 2**30}, r"evaluate\.batch_size=1073741824 must be at most 16777216"),
  ({"host.num_workers": 10**6}, r"host\.num_workers=1000000 must be at most 1024"),
  (
    {"train.batch_size": 2**23, "data.num_frames": 100},
    r"train\.batch_size=8388608 clips, .* TiB of pixels; reduce one",
  ),
  ({"evaluate.num_examples": -1}, r"evaluate\.num_examples=-1 must be at least 0"),
  ({"optimizer.clip_norm": 0.0}, r"optimizer\.clip_norm=0\.0 is out of range; allowed: above 0"),
  ({"optimizer.b1": 0.0}, r"optimizer\.b1=0\.0 is out of range; allowed: above 0, below 1"),
  ({"model.vision.heads": 0}, r"model\.vision\.heads=0 must be at least 1"),
  ({"model.vision.added_proxies": -1}, r"added_proxies=-1 must be at least 0"),
  ({"model.vision.width": 34, "model.vision.heads": 1}, r"model\.vision\.width=34.*multiple of 4"),
  ({"model.patch_dropout": 1.0}, r"model\.patch_dropout=1\.0 must be at least 0 and below 1"),
  ({"model.temporal": "sequence", "model.sequence_layers": 0}, r"sequence_layers=0 must be at least 1"),
  (
    {"model.temporal": "sequence", "data.num_frames": 40},
    r"num_frames=40 exceeds model\.text\.positions=28.*at most 28",
  ),
  ({"data.num_frames": 0}, r"data\.num_frames=0 must be at least 1"),
  ({"data.fraction": 0.0}, r"data\.fraction=0\.0 must be above 0 and at most 1"),
  ({"data.weight": 0.0}, r"data\.weight=0\.0 must be above 0 and finite"),
  ({"data.subtitle": "", "data.caption": ""}, r"no text for loss='vsc_fc'; set data\.caption or data\.subtitle to"),
  ({"data.subtitle": "", "loss": "vs"}, r"no text for loss='vs'; set data\.subtitle to"),
  ({"train.eval_every": 0}, r"train\.eval_every=0 must be at least 1"),
  ({"train.epochs": 0, "train.num_steps": 0}, r"train\.epochs and train\.num_steps are both 0; set one"),
  ({"train.unmasked_fraction": 1.5}, r"train\.unmasked_fraction=1\.5 must be at least 0 and at most 1"),
  ({"train.ema": 1.0}, r"train\.ema=1\.0 must be at least 0 \(no average\) and below 1"),
  ({"train.ema": -0.1}, r"train\.ema=-0\.1 must be at least 0"),
  ({"train.ema": float("nan")}, r"train\.ema=nan must be at least 0"),
  ({"train.num_microbatches": 3}, r"num_microbatches=3 does not divide the 2 clips per device.*use a divisor of 2"),
  ({"host.num_workers": -1}, r"host\.num_workers=-1 must be at least 0"),
  ({"mesh.fsdp": 3}, r"mesh\.data=-1, mesh\.fsdp=3, mesh\.tensor=1 .*8 devices"),
  ({"mesh.tensor": 8}, r"mesh\.tensor=8 does not divide model\.vision\.heads=2; use a divisor of the heads"),
]
REJECTED_STREAMS = [
  ({"weight": 0.0}, r"mix\.image_text\.weight=0\.0 must be above 0"),
  ({"weight": float("nan")}, r"mix\.image_text\.weight=nan must be above 0"),
  ({"caption": ""}, r"mix\.image_text has no text .*set mix\.image_text\.caption or mix\.image_text\.subtitle"),
  ({"num_frames": 0}, r"mix\.image_text\.num_frames=0 must be at least 1"),
]


def fields(value):
  return ",".join(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("changes", "message"), REJECTED, ids=fields)
def test_rejects_invalid_fields(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    config_checks.check_recipe(config(tmp_path, **changes), num_devices=8)


@pytest.mark.parametrize(("changes", "message"), REJECTED_STREAMS, ids=fields)
def test_rejects_invalid_mixed_corpora(tmp_path, changes, message):
  mixed = mixed_config(tmp_path)
  mixed.mix.image_text.update(changes)
  with pytest.raises(UserError, match=message):
    config_checks.check_recipe(mixed, num_devices=8)


@pytest.mark.parametrize("variant", ["smoke", "b32", "b16"])
def test_accepts_valid_recipes_on_one_device_and_on_a_pod(variant):
  recipe = post_pretrain.get_config(variant)
  config_checks.check_recipe(recipe, num_devices=1)
  config_checks.check_recipe(recipe, num_devices=16)


def test_stream_sections_are_config_data_and_then_each_mixed_corpus(tmp_path):
  mixed = mixed_config(tmp_path)
  sections = dict(config_checks.stream_sections(mixed))
  assert list(sections) == ["data", *(f"mix.{name}" for name in mixed.mix)]
  assert sections["data"] is mixed.data and sections["mix.image_text"] is mixed.mix.image_text


@pytest.mark.parametrize("recipe_is_valid", [True, False])
def test_checks_the_path_of_initial_weights_after_the_fields(tmp_path, recipe_is_valid):
  changes = {"init_from": str(tmp_path / "none.safetensors"), "seed": 0 if recipe_is_valid else -1}
  message = r"none\.safetensors.*no such file" if recipe_is_valid else r"seed=-1 must be at least 0"
  with pytest.raises(UserError, match=message):
    config_checks.check_run(config(tmp_path, **changes), tmp_path / "run")


def test_checks_the_trackers_of_this_host(tmp_path):
  with pytest.raises(UserError, match=r"host\.tracker: 'visdom' is unknown; use tensorboard, wandb"):
    config_checks.check_run(config(tmp_path, **{"host.tracker": "visdom"}), tmp_path / "run")


def test_a_run_with_a_checkpoint_needs_no_initial_weights(tmp_path):
  run_config = config(tmp_path, init_from=str(tmp_path / "none.safetensors"))
  workdir.claim(tmp_path / "run", config_tree.to_json_dict(run_config), {})
  with pytest.raises(UserError, match=r"none\.safetensors"):
    config_checks.check_run(run_config, tmp_path / "run")
  (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True)
  config_checks.check_run(run_config, tmp_path / "run")


def test_rejects_a_workdir_that_is_a_file(tmp_path):
  with pytest.raises(UserError, match=r"--workdir=.*README\.md is a file"):
    config_checks.check_run(config(tmp_path), ROOT / "README.md")
