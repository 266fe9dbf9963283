"""Items: serialisation, and validation of texts and names."""

import pytest

from clipvip_jax.data.engine.items import Item, check_id, clean_text, clean_texts, peek, safe_join
from clipvip_jax.utils.errors import UserError

FULL = Item(
  id="a", split="train", video="v.mp4", descriptions=("one", "two"), subtitle="s", caption="c", start=0.5, end=2.0,
  offset=3, size=4, extra={"twin": "b"}, missing_texts=("subtitle",),
)  # fmt: skip


@pytest.mark.parametrize("item", [FULL, Item("a", "train", ""), Item("a", "train", "v.mp4", end=0.0)])
def test_json_round_trip(item):
  assert Item.from_json(item.to_json()) == item


def test_json_omits_empty_fields_and_keeps_its_names():
  """Digests of annotations in built corpora depend on these bytes."""
  assert Item("a", "train", "v.mp4", end=0.0).to_json() == '{"id":"a","split":"train","video":"v.mp4","end":0.0}'
  assert FULL.to_json().endswith('"size":4,"extra":{"twin":"b"},"lacking":["subtitle"]}')


def test_clean_text_replaces_control_characters():
  assert clean_text(" a\x00\x1bb\ud800 ", "here") == "a b"
  assert clean_texts(["a", " \n", "b "], "here") == ("a", "b")
  assert clean_texts("a", "here") == ("a",)
  with pytest.raises(UserError, match='line 3: a text must be a string, got the number 7; write "7"'):
    clean_texts(["a", 7], "line 3")


@pytest.mark.parametrize("name", ["", " ", "a\nb", None, 7])
def test_check_id_rejects_invalid_names(name):
  with pytest.raises(UserError, match="line 3: an id or path must be a non-empty string without control characters"):
    check_id(name, "line 3")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\x"])
def test_safe_join_rejects_names_outside_of_the_folder(name):
  with pytest.raises(UserError, match=r"line 3: .* is outside of videos; use names relative to this folder"):
    safe_join("videos", name, "line 3")


def test_safe_join_accepts_names_with_dots():
  assert safe_join("videos", "a/..b.mp4", "line 3") == "videos/a/..b.mp4"


def test_peek_returns_all_items_again():
  first, items = peek(iter(range(5)), 2)
  assert first == [0, 1] and list(items) == [0, 1, 2, 3, 4]
