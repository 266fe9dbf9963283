"""Losses and gradients that are not finite, losses of exactly 0: the error names records and checkpoint."""

import contextlib
import types

import numpy as np
import pytest

from clipvip_jax.input_pipeline.pipeline import RecordSampler
from clipvip_jax.training.divergence import DivergenceCheck
from clipvip_jax.utils.errors import UserError


def create_check(saved_steps, texts=("", "", ""), sizes=(10, 4)):
  streams = [
    types.SimpleNamespace(
      batcher=types.SimpleNamespace(
        records=[{"id": f"{name}{i}".encode(), "speech": text.encode()} for i, text in enumerate(texts)],
        text_fields={"subtitle": "speech", "caption": ""},
      ),
      sampler=RecordSampler(*sizes),
    )
    for name in ("train_", "mixed_")
  ]
  return DivergenceCheck(streams, types.SimpleNamespace(steps=lambda: saved_steps))


@pytest.mark.parametrize(("loss", "grad_norm"), [(np.nan, 0.0), (np.inf, 1.0), (1.0, np.nan), (1.0, -np.inf)])
def test_names_the_records_of_each_stream_without_padding(loss, grad_norm):
  check = create_check([1, 4])
  check.defer(7, {"loss": loss, "grad_norm": grad_norm}, np.array([[1, 1], [1, 0], [0, 2], [1, -1]]))
  message = r"step 7: loss .*the newest checkpoint is step 4\. Records of the batch: mixed_1, mixed_0, train_2\."
  with pytest.raises(UserError, match=message):
    check.check()


def test_states_that_there_is_no_checkpoint():
  check = create_check([])
  check.defer(1, {"loss": np.nan, "grad_norm": 0.0}, np.array([[0, 0]]))
  with pytest.raises(UserError, match=r"there is no checkpoint.*try a smaller optimizer\.learning_rate"):
    check.check()


def test_accepts_finite_values_and_checks_each_step_once():
  check = create_check([])
  check.check()  # before the first step
  check.defer(1, {"loss": 3.0, "grad_norm": 1e30}, np.array([[0, 5]]))  # a record that cannot be read for its name
  check.check()
  check.check()


@pytest.mark.parametrize(("texts", "count"), [(("", " ", ""), 0), (("", "a", ""), 1), (("a", "b", "c"), 3)])
def test_a_loss_of_exactly_0_counts_the_texts_of_the_batch(texts, count):
  check = create_check([4], texts)
  check.defer(5, {"loss": 0.0, "grad_norm": 0.0}, np.array([[0, 0], [0, 1], [1, 2], [0, -1]]))
  message = rf"step 5: loss 0\.0, .*is step 4\. .*train_0, train_1, mixed_2\. {count} of them have a text in 'speech'"
  with pytest.raises(UserError, match=message):
    check.check()


@pytest.mark.parametrize(
  ("num_records", "batch_size", "allowed"), [(9, 4, True), (10, 4, False), (9, 1, False), (1, 4, False)]
)
def test_only_the_remainder_of_an_epoch_may_be_a_single_clip_of_loss_0(num_records, batch_size, allowed):
  check = create_check([], ("a", "b", "c"), (num_records, batch_size))
  check.defer(5, {"loss": 0.0, "grad_norm": 0.0}, np.array([[0, 0], [0, -1], [0, -1]]))
  with contextlib.nullcontext() if allowed else pytest.raises(UserError, match="1 of them have a text"):
    check.check()
