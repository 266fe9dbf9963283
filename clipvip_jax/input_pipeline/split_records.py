"""Records of a split, whose errors name corpus, split, record and file.

Runs in worker processes: does not import JAX or TensorFlow.
"""

import bisect
import errno
import itertools
import os
from collections.abc import Sequence
from typing import Any, overload

from clipvip_jax.input_pipeline.record_text import Record
from clipvip_jax.utils import transfers
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable

_MAX_REASON = 200  # characters of a library's error in a message


class SplitRecords(Sequence[Record]):
  """Random access to the records of a split; reads a record on access."""

  def __init__(self, source: Sequence[Any], where: str, files: Sequence[tuple[str, int]]):
    """Wraps a TFDS data source.

    Args:
      source: records by index.
      where: corpus and split, for error messages.
      files: path and number of records of each file, in order.
    """
    self._source, self._where = source, where
    self._paths = [path for path, _ in files]
    self._stops = list(itertools.accumulate(count for _, count in files))

  def __len__(self) -> int:
    return len(self._source)

  @overload
  def __getitem__(self, index: int, /) -> Record: ...
  @overload
  def __getitem__(self, index: slice, /) -> Sequence[Record]: ...
  def __getitem__(self, index: int | slice, /) -> Record | Sequence[Record]:
    """Reads a record.

    Raises:
      UserError: its file is missing or corrupt.
    """
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f"{self._where} has {len(self)} records, not {index}")
    index %= len(self)
    try:
      return self._source[index]
    except UserError:
      raise
    except Exception as error:  # ArrayRecord, protobuf and TFDS raise exceptions of many types
      if os.strerror(errno.EMFILE) in str(error):  # too many open files
        raise
      path = self._paths[bisect.bisect(self._stops, index)]
      unreadable = f"cannot be read ({printable(first_line(error), _MAX_REASON)})"
      raise UserError(
        f"{self._where}, record {index}: {path} {unreadable if transfers.exists(path) else 'is missing'}; restore the"
        " file, or build the corpus again"
      ) from error
