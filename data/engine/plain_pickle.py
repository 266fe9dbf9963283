"""Reader of pickles that hold lists, dicts, tuples, texts and numbers only, as of captions. Executes nothing.

A pickle is a program that can call any function. Python's unpickler is not safe here even without functions: a few
bytes make it fill the memory, or overflow its stack while it hashes a key. This interpreter carries out the opcodes
that these values need, of all protocols, and refuses the others by name.
"""

from __future__ import annotations

import pickletools
from typing import Any

from etils import epath

from clipvip_jax.utils.bucket_copies import fetch_file
from clipvip_jax.utils.errors import UserError, first_line
from clipvip_jax.utils.log import printable

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_BYTE_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # texts of Python 2
_MAX_GROWTH = 64  # characters and items per byte of the file: a pickle can repeat a value in two bytes
_TEXT_LIMIT = 100  # characters from the file in a message


def read_plain_pickle(path: epath.Path) -> Any:
  """Returns the value of a pickle: str, int, float, bool, None, and lists, tuples and dicts of them; keys are str.

  Raises:
    UserError: the file is unreadable or corrupt, refers to a function or class, or repeats its values too often.
  """
  try:
    program = fetch_file(path).read_bytes()
    value = _interpret(program, path)
  except UserError:
    raise
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror})") from error
  except Exception as error:  # pickletools raises exceptions of many types for corrupt files
    reason = printable(first_line(error), _TEXT_LIMIT)
    raise UserError(
      f"{path}: corrupt, or not a pickle of texts ({type(error).__name__}: {reason}); restore the file"
    ) from error
  _check_size(value, _MAX_GROWTH * len(program), path)
  return value


def _interpret(program: bytes, path: epath.Path) -> Any:
  stacks: list[list[Any]] = [[]]  # one more for each mark that is open
  memo: dict[int, Any] = {}
  argument: Any
  for opcode, argument, _ in pickletools.genops(program):
    stack = stacks[-1]
    match opcode.name:
      case "PROTO" | "FRAME" | "STOP":
        pass
      case name if name in _NUMBERS or name in _TEXTS:
        stack.append(argument)
      case name if name in _BYTE_STRINGS:
        stack.append(argument.encode("latin-1").decode())
      case name if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case "EMPTY_LIST":
        stack.append([])
      case "EMPTY_DICT":
        stack.append({})
      case "MARK":
        stacks.append([])
      case "TUPLE" | "LIST" | "DICT" | "APPENDS" | "SETITEMS" as name:
        stacks.pop()
        _collect(name, stacks[-1], stack)
      case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
        stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
      case "APPEND" | "SETITEM" as name:
        count = 1 if name == "APPEND" else 2
        items = stack[-count:]
        del stack[-count:]
        _collect(f"{name}S", stack, items)
      case "PUT" | "BINPUT" | "LONG_BINPUT":
        memo[argument] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "GET" | "BINGET" | "LONG_BINGET":
        stack.append(memo[argument])
      case name:
        named = ".".join(map(str, stack[-2:])) if name == "STACK_GLOBAL" else argument or ""
        raise UserError(
          f"{path}: contains the opcode {name} {printable(named, _TEXT_LIMIT)}, which texts do not need; nothing was"
          " executed. Use a file that holds only lists, dicts and texts, or annotations in another format"
        )
  return stacks[0][-1]


def _collect(opcode: str, stack: list[Any], items: list[Any]) -> None:
  """Pushes the items as one value, or adds them to the list or dict on top of the stack."""
  match opcode:
    case "TUPLE":
      stack.append(tuple(items))
    case "LIST":
      stack.append(items)
    case "DICT":
      stack.append({})
      _add_pairs(stack[-1], items)
    case "SETITEMS":
      _add_pairs(stack[-1], items)
    case _:
      if type(stack[-1]) is not list:
        raise ValueError("it adds items to what is not a list")
      stack[-1] += items


def _add_pairs(target: Any, items: list[Any]) -> None:
  if type(target) is not dict:
    raise ValueError("it adds items to what is not a dict")
  for key, value in zip(items[::2], items[1::2], strict=True):
    if type(key) is not str:
      raise ValueError("a key is not a text")
    if key in target:
      raise ValueError(f"the key {key!r} occurs twice")
    target[key] = value


def _check_size(value: Any, limit: int, path: epath.Path) -> None:
  """Raises UserError if the value, with everything that it refers to several times counted each time, is too large."""
  size, pending = 0, [value]
  while pending:
    item = pending.pop()
    if isinstance(item, dict):
      pending += [*item, *item.values()]
    elif isinstance(item, list | tuple):
      pending += item
    size += len(item) if isinstance(item, str | list | tuple | dict) else 1
    if size > limit:
      raise UserError(
        f"{path}: its texts take more than {_MAX_GROWTH} times the size of the file, since it repeats them; restore the"
        " file"
      )
