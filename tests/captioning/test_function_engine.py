"""Functions of the user as engines."""

import sys
import types

import numpy as np
import pytest
from caption_endpoint import picture

from clipvip_jax.captioning.engine import Answer
from clipvip_jax.captioning.function_engine import FunctionEngine
from clipvip_jax.utils.errors import UserError


@pytest.fixture
def engine(monkeypatch):
  """engine(FUNCTION) -> an engine that calls it."""

  def make(function):
    module = types.ModuleType("my_captioner")
    module.describe = function
    monkeypatch.setitem(sys.modules, "my_captioner", module)
    return FunctionEngine("my_captioner:describe", "v1", "What?", 2)

  return make


def run(engine, count=3):
  answers = {}
  engine.run(iter((i, picture(i)) for i in range(count)), answers.__setitem__)
  return answers


def test_the_function_gets_pictures_and_the_prompt(engine):
  def describe(frames, prompt):
    assert all(frame.dtype == np.uint8 and frame.shape == (8, 8, 3) for frame in frames)
    return [f"{prompt} {len(frames)}" for _ in frames]

  made = engine(describe)
  assert run(made) == {0: Answer("What? 2"), 1: Answer("What? 2"), 2: Answer("What? 1")}
  assert made.describe() == {"engine": "my_captioner:describe", "model": "v1", "prompt": "What?"}


@pytest.mark.parametrize(
  ("result", "words"),
  [("a dog", "returned str for 2 frames"), (["a"], "returned list of 1 for 2"), (["a", 5], "int in place of a text")],
)
def test_another_result_is_refused(engine, result, words):
  with pytest.raises(UserError, match=words):
    run(engine(lambda frames, prompt: result))


@pytest.mark.parametrize("name", ["nothing", "no_such_module:f", "json:nothing", "json:decoder", ":", "json:"])
def test_an_unknown_function_is_refused(name):
  with pytest.raises(UserError, match=r"--engine=.* (is unknown|is not a function)"):
    FunctionEngine(name, "", "", 1)
