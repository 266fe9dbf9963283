"""Configurations as trees and JSON."""

import json

import ml_collections

from clipvip_jax.utils import config_tree


def test_flatten_joins_names_and_keeps_empty_sections():
  tree = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], "g": {}}
  assert dict(config_tree.flatten(tree)) == {"a.b": 1, "a.c.d": None, "e": [1, {"f": 2}], "g": {}}


def test_to_json_dict_equals_what_is_read_back(tmp_path):
  config = ml_collections.ConfigDict({"sizes": (1, 2), "section": {"rate": 0.1}})
  assert config_tree.to_json_dict(config) == {"sizes": [1, 2], "section": {"rate": 0.1}}
  config_tree.write_json(tmp_path / "config.json", config_tree.to_json_dict(config))
  assert json.loads((tmp_path / "config.json").read_text()) == config_tree.to_json_dict(config)


def test_json_keeps_names_that_are_not_utf8(tmp_path):
  config_tree.write_json(tmp_path / "a.json", {"source": "caf\udce9.pt"})
  assert json.loads((tmp_path / "a.json").read_text()) == {"source": "caf\udce9.pt"}
