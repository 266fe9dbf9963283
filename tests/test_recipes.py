"""Recipes and variants: hyper-parameters, protocols, and the weights that they start from."""

import pytest
from fine_tuning import FINE_TUNING
from project_paths import ROOT

from clipvip_jax.configs import common, data_scale, generated_captions, mixed, msrvtt, post_pretrain, replication, sizes


@pytest.mark.parametrize("name", sizes.LARGE)
def test_large_sizes_have_the_hyper_parameters_of_b16_and_start_from_clip(name):
  for recipe in (post_pretrain, mixed, data_scale, *FINE_TUNING.values()):
    config, b16 = recipe.get_config(name), recipe.get_config("b16")
    assert config.init_from == sizes.SIZES[name].clip
    for section in ("optimizer", "train", "data"):
      assert config[section] == b16[section]
  assert msrvtt.get_config(f"{name},mean").init_from == sizes.SIZES[name].clip
  assert sizes.size_of(post_pretrain.get_config(name)) is sizes.SIZES[name]


def test_a_size_that_is_not_published_has_no_weights():
  with pytest.raises(ValueError, match=r"none of CLIP's published sizes .*l14_336"):
    sizes.size_of(post_pretrain.get_config("demo"))


def test_a_later_size_replaces_an_earlier_one():
  for name in ("b32", "b16"):
    assert post_pretrain.get_config(f"h14,{name}").model == post_pretrain.get_config(name).model


@pytest.mark.parametrize(
  ("recipe", "arg", "ordered"),
  [
    (msrvtt, "mean,frozen_text,b16", "b16,mean,frozen_text"),
    (msrvtt, "from_clip,b16", "b16,from_clip"),
    (post_pretrain, "frozen_lower,l14", "l14,frozen_lower"),
    (post_pretrain, "single_frame,demo", "demo,single_frame"),
    (post_pretrain, "no_time,smoke", "smoke,no_time"),
    (mixed, "remat,frozen_lower,smoke", "smoke,remat,frozen_lower"),
  ],
)
def test_a_size_demo_or_smoke_after_variants_whose_fields_it_sets_is_refused(recipe, arg, ordered):
  with pytest.raises(ValueError, match=f"variants {arg}: one sets again what an earlier one changed; write {ordered}$"):
    recipe.get_config(arg)


@pytest.mark.parametrize(
  ("recipe", "arg", "ordered"),
  [
    (data_scale, "1%,demo", "demo,1%"),
    (data_scale, "30%,l14", "l14,30%"),
    (msrvtt, "remat,b32", "b32,remat"),
    (post_pretrain, "vs,b16", "b16,vs"),
  ],
)
def test_variants_of_different_fields_have_any_order(recipe, arg, ordered):
  assert recipe.get_config(arg) == recipe.get_config(ordered)


def test_own_videos_start_from_the_weights_of_a_named_size():
  assert post_pretrain.get_config("l14,own_videos").init_from == sizes.SIZES["l14"].clip
  assert post_pretrain.get_config("own_videos").init_from == "hf://openai/clip-vit-base-patch32"


def test_fine_tuning_recipes_have_the_papers_hyper_parameters():
  values = {}
  for name, recipe in FINE_TUNING.items():
    for variant in ("b32", "b16"):
      c = recipe.get_config(variant)
      o, d, t = c.optimizer, c.data, c.train
      assert (o.learning_rate, o.weight_decay, o.clip_norm, o.warmup_ratio, c.loss) == (1e-6, 0.2, 1, 0.01, "vs")
      values[name, variant] = (t.epochs, t.batch_size, d.num_frames, d.text_length, o.lr_multipliers.logit_scale)
  assert values == {
    ("msrvtt", "b32"): (100, 128, 12, 50, 1),
    ("msrvtt", "b16"): (100, 128, 12, 50, 1),
    ("didemo", "b32"): (20, 128, 12, 50, 1),
    ("didemo", "b16"): (20, 128, 12, 70, 10),
    ("lsmdc", "b32"): (10, 128, 12, 50, 1),
    ("lsmdc", "b16"): (10, 128, 12, 50, 1),
    ("activitynet", "b32"): (20, 128, 32, 70, 1),
    ("activitynet", "b16"): (20, 64, 32, 70, 1),
    # Not of the paper: see their docstrings.
    ("msvd", "b32"): (200, 128, 12, 32, 1),
    ("msvd", "b16"): (200, 128, 12, 32, 1),
    ("vatex", "b32"): (50, 128, 12, 32, 1),
    ("vatex", "b16"): (50, 128, 12, 32, 1),
    ("youcook2", "b32"): (10, 128, 12, 50, 1),
    ("youcook2", "b16"): (10, 128, 12, 50, 1),
  }


def test_fine_tuning_recipes_select_and_report_by_the_protocol_of_their_corpus():
  values = {}
  for name in [*FINE_TUNING, "msrvtt:7k_protocol", "msrvtt:full_protocol"]:
    recipe, _, variant = name.partition(":")
    config = FINE_TUNING[recipe].get_config(variant)
    e = config.evaluate
    values[name] = (config.data.config, e.selection_split, e.final_splits, e.protocol)
  assert values == {
    "msrvtt": ("9k", "test", ("test",), "single"),
    "msrvtt:7k_protocol": ("7k", "test", ("test",), "single"),
    "msrvtt:full_protocol": ("full", "validation", ("test",), "multi"),
    "didemo": ("default", "validation", ("test",), "single"),
    "lsmdc": ("default", "test", ("test",), "single"),
    "activitynet": ("default", "validation", ("validation",), "single"),
    "msvd": ("default", "validation", ("test",), "multi"),
    "vatex": ("default", "validation", ("test",), "multi"),
    "youcook2": ("default", "validation", ("validation",), "single"),
  }


def test_fine_tuning_recipes_evaluate_after_whole_epochs_of_the_official_sizes():
  epochs = {}
  sizes = {"msrvtt": 9000, "msrvtt:7k_protocol": 7010, "msrvtt:full_protocol": 6513, "msvd": 1200, "vatex": 25_991}
  for name, size in {**sizes, "youcook2": 10_337}.items():
    recipe, _, variant = name.partition(":")
    train = FINE_TUNING[recipe].get_config(variant).train
    epochs[name] = train.eval_every / -(-size // train.batch_size)
    assert train.eval_every == train.checkpoint_every
  assert epochs == {
    "msrvtt": 5, "msrvtt:7k_protocol": 5, "msrvtt:full_protocol": 5, "msvd": 10, "vatex": 5, "youcook2": 1,
  }  # fmt: skip


def test_variants_select_texts_and_weights_as_in_the_paper():
  expected = {"subtitles_only": ("vs", "subtitle", ""), "captions_only": ("vs", "caption", "")}
  for name, (loss, subtitle, caption) in expected.items():
    config = post_pretrain.get_config(name)
    assert (config.loss, config.data.subtitle, config.data.caption) == (loss, subtitle, caption)
  for variant in ("full", "mean"):
    fine = msrvtt.get_config(f"b16,{variant}")
    assert (fine.model.temporal, fine.model.patch_size) == (variant, 16)
    assert fine.init_from == "weights/clip-vit-base-patch16/model.safetensors"
  with pytest.raises(ValueError, match="unknown variant 'vsc'"):
    msrvtt.get_config("vsc")  # fine-tuning has no captions


def test_data_scale_trains_all_shares_on_equally_many_clips():
  for variant, steps in (("10%", 200_000), ("b16,10%", 400_000)):
    config = data_scale.get_config(variant)
    assert (config.data.name, config.data.fraction, config.evaluate.name) == ("hdvila", 0.1, "msrvtt")
    assert config.train.num_steps == steps and steps * config.train.batch_size == 51_200_000
  assert data_scale.get_config("demo,1%").evaluate.name == ""


def test_arms_with_generated_captions_differ_in_the_corpus_alone():
  for steps in generated_captions.CAPTIONER_STEPS:
    config, rendered = (
      recipe.get_config(f"{arm},smoke")
      for recipe, arm in ((generated_captions, f"captioner_{steps}"), (replication, "vsc_fc"))
    )
    assert (config.data.config, config.data.prepare) == (f"smoke+captioner_{steps}", False)
    with config.unlocked():
      config.data.update({"config": "smoke", "prepare": True})
    assert config == rendered
  arms = {arm for group in generated_captions.STUDY.values() for arm in group.values()}
  assert arms == {"vsc_fc", "vs", *(f"captioner_{steps}" for steps in generated_captions.CAPTIONER_STEPS)}
  steps = " ".join(map(str, generated_captions.CAPTIONER_STEPS))
  assert f"CAPTIONER_STEPS := {steps}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_mixture_has_videos_with_both_texts_videos_with_one_and_captioned_images():
  config = mixed.get_config()
  corpora = {"data": config.data, **config.mix}
  values = {name: (s.weight, s.num_frames, s.subtitle, s.caption) for name, s in corpora.items()}
  assert values == {
    "data": (1.0, 12, "subtitle", "caption"),
    "video_text": (0.5, 12, "description", ""),
    "image_text": (0.5, 1, "", "caption"),
  }
  assert config.optimizer == post_pretrain.get_config().optimizer
  smoke = mixed.get_config("smoke")
  assert {corpus.name for corpus in (smoke.data, *smoke.mix.values())} == {"moving_shapes"}
  assert {name: corpus.num_frames for name, corpus in smoke.mix.items()} == {"video_text": 6, "image_text": 1}
  with pytest.raises(ValueError, match="no field 'nam'; available: name, config"):
    common.mix_corpus(nam="webvid")


def test_post_pretraining_has_the_papers_hyper_parameters():
  config = post_pretrain.get_config()
  values = {
    "lr": config.optimizer.learning_rate,
    "decay": config.optimizer.weight_decay,
    "clip": config.optimizer.clip_norm,
    "epochs": config.train.epochs,
    "batch": config.train.batch_size,
    "batch of b16": post_pretrain.get_config("b16").train.batch_size,
    "frames": config.data.num_frames,
    "text": config.data.text_length,
    "warm-up": config.optimizer.warmup_ratio,
    "loss": config.loss,
  }
  assert values == {
    "lr": 5e-6,
    "decay": 0.05,
    "clip": 5,
    "epochs": 5,
    "batch": 8 * 32,
    "batch of b16": 8 * 16,
    "frames": 12,
    "text": 70,
    "warm-up": 0.01,
    "loss": "vsc_fc",
  }


def test_unknown_variant_lists_the_available_ones():
  with pytest.raises(ValueError, match=r"'b64'.*b32, b16, l14, .*demo"):
    post_pretrain.get_config("b64")


def test_misspelt_field_is_refused():
  config = post_pretrain.get_config()
  with pytest.raises(AttributeError, match="learning_rate"):
    config.optimizer.learning_rat = 1.0
