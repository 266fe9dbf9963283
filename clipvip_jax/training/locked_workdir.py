"""The locked workdir of a run, with the configuration, the corpora and the tokenizer recorded in it."""

import contextlib
from collections.abc import Iterator

import jax

from clipvip_jax.distributed.coordination import raise_on_all_processes
from clipvip_jax.input_pipeline.json_tokenizer import JsonTokenizer
from clipvip_jax.input_pipeline.word_tokenizer import WORDS
from clipvip_jax.runs import workdir as run_workdir
from clipvip_jax.runs.checkpoint_identity import check_checkpoints
from clipvip_jax.training.launch_consistency import check_shared_workdir
from clipvip_jax.training.setup import Components
from clipvip_jax.utils.errors import UserError


@contextlib.contextmanager
def locked_workdir(components: Components) -> Iterator[None]:
  """Locks the workdir of a validated run inside a `with` block. All processes must enter it.

  Raises:
    UserError: on all processes, where another run holds the lock, the workdir is not writable, or processes see
      different workdirs.
  """
  with contextlib.ExitStack() as stack:
    problem = ""
    if jax.process_index() == 0:
      try:
        _lock_and_record(components, stack)
      except UserError as error:
        problem = str(error)
    raise_on_all_processes(problem)
    check_shared_workdir(components.folder)
    yield


def _lock_and_record(components: Components, stack: contextlib.ExitStack) -> None:
  """Locks the workdir until `stack` closes, and writes config.json, corpus.json and a built tokenizer.json."""
  workdir = components.workdir
  with run_workdir.explain_write_errors(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
    stack.enter_context(components.folder.lock())
  identity = components.identity
  # Checked again under the lock: another run may have written these files since `prepare`.
  run_workdir.check_config(workdir, identity["config"], extendable=True)
  run_workdir.check_corpus(workdir, identity["corpus"])
  check_checkpoints(workdir, identity)
  if components.extended_from:
    run_workdir.record_extension(workdir, components.extended_from, components.total_steps)
  run_workdir.claim(workdir, **identity)
  if components.config.data.tokenizer == WORDS and isinstance(components.tokenizer, JsonTokenizer):
    with run_workdir.explain_write_errors(workdir):
      components.tokenizer.save(workdir / "tokenizer.json")
  components.folder.upload()
