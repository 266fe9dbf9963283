"""Collected errors of lines."""

import pytest

from clipvip_jax.data.engine import bad_lines
from clipvip_jax.utils.errors import UserError


def odd(number):
  if number % 2 == 0:
    raise UserError(f"line {number} is even")
  return number


def test_without_collection_the_first_error_is_raised():
  with pytest.raises(UserError, match="line 2 is even"):
    [bad_lines.attempt(odd, number) for number in range(1, 9)]


@pytest.mark.parametrize(("last", "count"), [(3, 1), (9, 4), (200, 20)])
def test_collects_up_to_twenty_errors(last, count):
  good = []
  words = {1: "^line 2 is even$", 4: "have 4 invalid lines; repair", 20: "at least 20 invalid"}[count]
  with pytest.raises(bad_lines.BadLinesError, match=words) as refused, bad_lines.collect():
    good = [bad_lines.attempt(odd, number) for number in range(1, last + 1)]
    bad_lines.raise_collected()
  assert refused.value.errors == [f"line {number} is even" for number in range(2, 2 * count + 1, 2)]
  assert good in ([], [number if number % 2 else None for number in range(1, last + 1)])


def test_another_error_follows_the_collected_ones():
  with pytest.raises(bad_lines.BadLinesError) as refused, bad_lines.collect():
    bad_lines.attempt(odd, 2)
    raise UserError("no clips")
  assert refused.value.errors == ["line 2 is even", "no clips"]
  with pytest.raises(UserError, match=r"^no clips$"), bad_lines.collect():
    raise UserError("no clips")


def test_nothing_is_raised_for_valid_lines():
  with bad_lines.collect():
    assert bad_lines.attempt(odd, 3) == 3
