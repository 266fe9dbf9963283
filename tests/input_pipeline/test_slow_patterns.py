"""Regular expressions with nested repetitions, and those of published tokenizers."""

import json

import pytest

from clipvip_jax.input_pipeline.slow_patterns import find_slow_pattern


def content(*patterns):
  """A tokenizer.json with these regular expressions."""
  return json.dumps({"pre_tokenizers": [{"pattern": {"Regex": pattern}} for pattern in patterns]})


@pytest.mark.parametrize(
  "pattern", ["(a+)+$", "(?:a|a)*$", "((a|b))+!", "((a+)b)+", "(\\s*,){2,}", '("+)+', "\\((a*)*\\)", "([)]+)+"]
)
def test_finds_patterns_that_may_take_exponential_time(pattern):
  assert find_slow_pattern(content(r"\d+", pattern)) == pattern


@pytest.mark.parametrize(
  "pattern",
  [
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)",
    r"(?:ab)+|\(a+\)+|[(a+)+]",
  ],
)
def test_accepts_patterns_of_published_tokenizers(pattern):
  assert find_slow_pattern(content(pattern, pattern)) == ""


def test_an_invalid_string_is_left_to_the_package():
  assert find_slow_pattern('{"Regex": "\\x"}') == ""
