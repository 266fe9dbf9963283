"""Local paths where checkpoints can be written and read.

Orbax expands `*`, `?` and `[...]` in the whole path of a checkpoint when it commits one, and then finds none of its
files, or those of another folder. TensorStore reads `\\` as `/`.
"""

import os
import pathlib

from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import printable

NOT_READABLE = "\\"
NOT_WRITABLE = NOT_READABLE + "*?["


def check_checkpoint_path(path: str | os.PathLike[str], flag: str, refused: str = NOT_WRITABLE) -> None:
  """Refuses a folder, or one in a folder, whose name has characters that lose checkpoints.

  Args:
    path: of a local folder, which need not exist.
    flag: the option that holds it, for the message.
    refused: the characters, NOT_WRITABLE or NOT_READABLE.

  Raises:
    UserError: names the first of these characters.
  """
  absolute = os.fspath(pathlib.Path(path).absolute())
  character = next((character for character in absolute if character in refused), "")
  if character:
    raise UserError(
      f"{flag}={printable(absolute)} has a {character} in its path, with which checkpoints cannot be"
      f" {'read' if refused == NOT_READABLE else 'saved'}; choose a path without any of {' '.join(refused)}"
      ", or rename the folder"
    )
