"""Class lists in all their forms, names as words, prompts, and what is refused."""

import json

import pytest

from clipvip_jax.evaluation.class_list import (
  DEFAULT_TEMPLATES,
  class_key,
  name_to_words,
  read_classes,
  read_templates,
)
from clipvip_jax.utils.errors import UserError


def write(tmp_path, name, content):
  path = tmp_path / name
  path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
  return path


@pytest.mark.parametrize(
  ("name", "content", "names", "ids"),
  [
    ("a.txt", "abseiling\n\n air drumming \n", ("abseiling", "air drumming"), {}),
    ("classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n", ("ApplyEyeMakeup", "Archery"), {"1": 0, "2": 1}),
    ("a.txt", "2 people\n3 people\n5 people\n", ("2 people", "3 people", "5 people"), {}),
    ("a.csv", 'id,name\n0,abseiling\n1,"air, drumming"\n', ("abseiling", "air, drumming"), {"0": 0, "1": 1}),
    ("a.tsv", "id\tname\n0\tabseiling\n1\tair, drumming\n", ("abseiling", "air, drumming"), {"0": 0, "1": 1}),
    ("a.TSV", "name\nabseiling\n", ("abseiling",), {}),
    ("classInd.tsv", "1\tApplyEyeMakeup\n2\tArchery\n", ("ApplyEyeMakeup", "Archery"), {"1": 0, "2": 1}),
    ("a.jsonl", '{"name": "a", "id": 7}\n{"name": "b", "id": "x"}\n', ("a", "b"), {"7": 0, "x": 1}),
    ("a.json", ["a", "b"], ("a", "b"), {}),
    ("a.json", [{"name": "a", "id": 7}, {"name": "b", "id": "x"}], ("a", "b"), {"7": 0, "x": 1}),
    ("labels.json", {"Holding something": "0", "Closing something": 1}, None, {"0": 0, "1": 1}),
    ("a.json", {"0": "tench", "1": "goldfish"}, ("tench", "goldfish"), {"0": 0, "1": 1}),
  ],
)
def test_forms_of_a_list(tmp_path, name, content, names, ids):
  classes = read_classes(write(tmp_path, name, content))
  assert classes.names == (names or ("Holding something", "Closing something")) and dict(classes.ids) == ids


def test_prompts_are_templates_with_the_words_of_the_name_or_those_of_the_list(tmp_path):
  templates = ("a video of {}.", "{}, {}")
  classes = read_classes(write(tmp_path, "a.txt", "ApplyEyeMakeup\nbrush_hair\n"), templates)
  assert classes.prompts == (
    ("a video of Apply Eye Makeup.", "Apply Eye Makeup, Apply Eye Makeup"),
    ("a video of brush hair.", "brush hair, brush hair"),
  )
  own = read_classes(write(tmp_path, "b.json", {"a": ["x", "y", "x"], "b": "z"}), templates)
  assert own.prompts == (("x", "y"), ("z",))
  table = read_classes(write(tmp_path, "c.csv", "name,prompts\na,x | y\nb,z\n"), templates)
  assert table.prompts == (("x", "y"), ("z",))
  mixed = read_classes(write(tmp_path, "d.json", [{"name": "a", "prompts": ["x"]}, "b"]), templates)
  assert mixed.prompts == (("x",), ("a video of b.", "b, b"))
  assert all("{}" in template for template in DEFAULT_TEMPLATES)


def test_names_of_columns_may_have_spaces_and_ignored_columns_are_named(tmp_path, caplog):
  spaced = read_classes(write(tmp_path, "a.csv", "\ufeffid, name ,prompts\r\n\r\n7, a,x | y\r\n8,b,z\r\n"))
  assert (spaced.names, spaced.prompts, dict(spaced.ids)) == (("a", "b"), (("x", "y"), ("z",)), {"7": 0, "8": 1})
  assert not caplog.messages
  singular = read_classes(write(tmp_path, "b.csv", ",name,prompt,ID\n0,a,x,1\n1,b,y,2\n"), ["{}"])
  assert (singular.prompts, dict(singular.ids)) == ((("a",), ("b",)), {})
  assert [message.split(": ", 1)[1] for message in caplog.messages] == [
    "columns ['ID', 'prompt'] are ignored; those that are read are name, id, prompts"
  ]


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("ApplyEyeMakeup", "Apply Eye Makeup"),
    ("YoYo", "Yo Yo"),
    ("TaiChi", "Tai Chi"),
    ("brush_hair", "brush hair"),
    ("hugging (not baby)", "hugging (not baby)"),
    ("Pushing [something] off of [something]", "Pushing something off of something"),
    ("playing McCartney songs", "playing McCartney songs"),
  ],
)
def test_names_as_words(name, words):
  assert name_to_words(name) == words


def test_labels_are_found_by_any_spelling_of_the_name_and_by_id(tmp_path):
  classes = read_classes(write(tmp_path, "classInd.txt", "1 HandstandPushups\n2 caf\u00e9 visit\n"))
  assert classes.find("HandStandPushups") == classes.find("handstand pushups") == classes.find("1") == 0
  assert classes.find("cafe\u0301_VISIT") == classes.find(" 2 ") == 1
  assert classes.find("0") is None and classes.find("cafe visit") is None
  assert class_key("\u0915\u093f") != class_key("\u0915\u0940"), "vowel signs are no letters, but count"


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.txt", "run\nwalk\nRun\n", r"a\.txt, line 3: class 'run' is listed twice, first at .*a\.txt, line 1"),
    ("a.txt", "brush_hair\nbrush hair\n", "class 'brushhair' is listed twice"),
    ("a.txt", "caf\u00e9\ncafe\u0301\n", "listed twice"),
    ("a.txt", "\n\n", "has no classes; write one per line"),
    ("a.csv", "id,name\n1,a\n1,b\n", r"line 3: id '1' is listed twice, first at .*line 2"),
    ("a.csv", "id,label\n1,a\n", "no column name; the file has id, label"),
    ("a.tsv", "id\tlabel\n1\ta\n", r"a\.tsv, line 1: a tab, .*; begin a table with a line of .* columns, name and id"),
    ("a.txt", "run\nwalk\t3\n", r"a\.txt, line 2: a tab, .*, and save it as \.tsv"),
    ("a.jsonl", '{"name": "a", "prompt": "x"}', r'a\.jsonl, line 1: unknown field "prompt"; use name, id and prompts'),
    ("a.csv", "name,prompts\na,x\nb, | \n", "line 3: class 'b' has no prompts; write at least one, or leave"),
    ("a.json", {"a": ["x"], "b": []}, "'b': class 'b' has no prompts"),
    ("a.json", {"a": ["x"], "b": None}, "class 'b' has no prompts"),
    ("a.json", [{"name": "a", "prompts": None}], "class 'a' has no prompts"),
    ("a.json", [{"name": "a", "prompts": [3]}], "entry 1, prompts: a text must be a string, got the number 3"),
    ("a.json", [{"name": "a", "id": 1}, "b"], "class 'b' has no id, others have one"),
    ("a.json", [{"name": "2", "id": 1}, {"name": "3", "id": 2}], "'2' is the id of one class and the name of another"),
    ("a.json", [{"name": "a", "id": True}], "the id of class 'a' is true; write a number or a word"),
    ("a.json", [{"name": "a", "prompt": "x"}], 'unknown field "prompt"; use name, id and prompts'),
    ("a.json", [{"name": "[_-]"}], "a class has no name"),
    ("a.json", [7], "entry 1, name: a text must be a string, got the number 7"),
    ("a.json", "3", "expected a list of classes or an object, got 3"),
    ("a.json", '{"a": 0, "a": 1}', "the key 'a' occurs twice"),
    ("a.json", "[", "cannot be read as JSON"),
    ("none.txt", None, "none.txt: cannot be read"),
  ],
)
def test_invalid_lists_are_refused_in_one_line(tmp_path, name, content, message):
  path = tmp_path / name if content is None else write(tmp_path, name, content)
  with pytest.raises(UserError, match=message) as refused:
    read_classes(path)
  assert "\n" not in str(refused.value)


def test_templates_of_a_file(tmp_path):
  assert read_templates(write(tmp_path, "a.txt", "{}\n\na video of {}.\n{}\n")) == ("{}", "a video of {}.")
  with pytest.raises(UserError, match=r"a\.txt, line 2: template 'a video' has no \{\} for the name of the class"):
    read_templates(write(tmp_path, "a.txt", "{}\na video\n"))
  with pytest.raises(UserError, match="has no templates; write one per line"):
    read_templates(write(tmp_path, "a.txt", "\n"))
