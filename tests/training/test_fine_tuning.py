"""Fine-tuning recipes, each on a miniature of its corpus: two steps, evaluation, results."""

import corpora
import pytest

from clipvip_jax.configs import activitynet, didemo, lsmdc, msrvtt
from clipvip_jax.data.activitynet_captions.activitynet_captions_dataset_builder import Builder as ActivitynetCaptions
from clipvip_jax.data.didemo.didemo_dataset_builder import Builder as Didemo
from clipvip_jax.data.lsmdc.lsmdc_dataset_builder import Builder as Lsmdc
from clipvip_jax.data.msrvtt.msrvtt_dataset_builder import Builder as Msrvtt

# Recipe, builder, and the list of clips of each split as the authors of the method distribute it.
CORPORA = {
  "msrvtt": (msrvtt, Msrvtt, {"train": "train9k.jsonl", "test": "test1ka.jsonl"}),
  "didemo": (didemo, Didemo, {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}),
  "lsmdc": (lsmdc, Lsmdc, {"train": "train.jsonl", "test": "test.jsonl"}),
  "activitynet": (activitynet, ActivitynetCaptions, {"train": "train.jsonl", "validation": "val1.jsonl"}),
}


@pytest.fixture(scope="module")
def corpus(request, tmp_path_factory):
  """(recipe, corpus) with ten training clips and five in each other split."""
  recipe, builder, files = CORPORA[request.param]
  folder = tmp_path_factory.mktemp(request.param)
  for split, file in files.items():
    names = [f"{split}{number}" for number in range(10 if split == "train" else 5)]
    for name in names:
      if request.param == "lsmdc":
        corpora.encode(folder / f"{name}.avi", corpora.moving_frames(12, hash_of(name)), "mpeg4", rate=6)
      else:
        corpora.write_video(folder / "videos" / f"{name}.mp4", seed=hash_of(name))
    texts = {"train": lambda name: [f"{name} one", f"{name} two"]}.get(split, lambda name: f"a text of {name}")
    corpora.write_lines(folder / file, [{"clip_id": name, "text": texts(name)} for name in names])
  return recipe, corpora.build(builder, recipe.get_config().data.config, folder / "corpora", folder)


def hash_of(name):
  """A hash that is equal in all processes."""
  return sum(name.encode())


@pytest.mark.slow
@pytest.mark.unoptimized
@pytest.mark.parametrize("corpus", CORPORA, indirect=True)
def test_trains_two_steps_and_ranks_every_query(corpus, tmp_path):
  recipe, builder = corpus
  config = corpora.small(recipe.get_config())
  frames = config.data.num_frames
  results = corpora.train_two_steps(builder, tmp_path / "run", config, **{"data.num_frames": frames})
  assert results["step"] == 2 and results["config"]["data"]["num_frames"] == frames
  for split in recipe.get_config().evaluate.final_splits:
    metrics = results["splits"][split]
    assert (metrics["size"], metrics["expected"], metrics["missing"]) == (5, 5, 0)
    assert metrics["queries"] == sum(metrics["rank_histogram"].values()) == 5
  assert results["corpus"]["pixels"] and results["config"]["loss"] == "vs"
  assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
