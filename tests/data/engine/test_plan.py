"""Plans: items on disk, and their shards."""

import pytest
from etils import epath

from clipvip_jax.data.engine.items import Item
from clipvip_jax.data.engine.plan import write_plan
from clipvip_jax.utils.errors import UserError


def items(count, split="train", text="t"):
  return [Item(f"{split}{n}", split, f"{n}.mp4", (text,)) for n in range(count)]


def test_shards_cover_all_items_in_order(tmp_path):
  train, test = items(10), items(3, "test")
  mixed = [*train[:4], *test, *train[4:]]
  plan = write_plan(mixed, ("train",), epath.Path(tmp_path / "plan"))
  assert plan.counts == {"train": 10, "test": 3}
  shards = list(plan.shards(clips_per_shard=4))
  assert [(shard.name, shard.count) for shard in shards] == [
    ("train-00000", 4), ("train-00001", 4), ("train-00002", 2), ("test-00000", 3),
  ]  # fmt: skip
  assert [item for shard in shards for item in plan.items(shard)] == train + test


@pytest.mark.parametrize(("count", "sizes"), [(20, [16, 4]), (128 * 20, [20] * 128)])
def test_automatic_shards(tmp_path, count, sizes):
  plan = write_plan(items(count), (), epath.Path(tmp_path))
  assert [shard.count for shard in plan.shards()] == sizes


def test_digest_of_a_shard_changes_only_with_its_items(tmp_path):
  changed = [*items(3), *items(4, text="new")[3:]]
  old, new = (
    [shard.digest for shard in write_plan(rows, (), epath.Path(tmp_path)).shards(2)] for rows in (items(4), changed)
  )
  assert old[0] == new[0] and old[1] != new[1]


@pytest.mark.parametrize(
  ("rows", "words"),
  [
    ([], "the annotations have no clips"),
    (items(2, "test"), "split 'train' has no clips; check that"),
    ([*items(3), *items(1)], "split 'train': clips 1 and 4 have the same id 'train0'; give each clip another id"),
    ([Item("a", f"s{n}", "v.mp4") for n in range(101)], "more than 100 splits, the last 's100'; use fewer"),
  ],
)
def test_rejects_invalid_items(tmp_path, rows, words):
  with pytest.raises(UserError, match=words):
    write_plan(rows, ("train",), epath.Path(tmp_path))


def test_same_id_in_two_splits_is_allowed(tmp_path):
  rows = [Item("a", "train", "v.mp4"), Item("a", "test", "v.mp4")]
  assert write_plan(rows, (), epath.Path(tmp_path)).counts == {"train": 1, "test": 1}
