"""Decoding in a process of its own: a file that hangs or crashes the decoder costs one clip and not the build.

The parent writes one request a line (JSON); the answer is the length of a header (4 bytes), the header (JSON) and the
frames. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import struct
import subprocess
import sys
import time
from typing import Any, BinaryIO

from clipvip_jax.input_pipeline.video_decoder import NO_SUCH_FILE, VideoError
from clipvip_jax.utils.errors import UserError
from data.engine.coverage import SkippedClip
from data.engine.frame_extraction import FrameSettings, TooShort, decoder_by_name, image_frame, stored_frames

_MEMORY = 16 * 2**30  # bytes of address space of the decoding process
_GRACE = 5.0  # seconds after which a decoding process ends by itself, should its parent be gone
_START = 60.0  # seconds for the first answer besides the limit: Python and FFmpeg are loaded
_COMMAND = "from data.engine.decode_process import serve; serve()"


class DecodeProcess:
  """A decoding process, started when it is needed and again after it was lost. A context manager, or `close` it."""

  def __init__(self, stored: FrameSettings, decoder: str = "pyav", seconds: float = 60.0):
    """`seconds`: the limit for one clip; `decoder`: see `media.decoder`."""
    self._settings = json.dumps({"stored": dataclasses.asdict(stored), "decoder": decoder, "seconds": seconds})
    self._seconds = seconds
    self._process: subprocess.Popen[bytes] | None = None

  def frames(
    self, path: str, start: float | None = None, end: float | None = None, offset: int = 0, size: int = 0
  ) -> list[bytes] | SkippedClip:
    """The stored frames of a clip, or why there are none.

    Args:
      path: a local video file, image or folder of frames.
      start: seconds, where the clip begins; None: where the video does.
      end: seconds, where the clip ends.
      offset: where an image begins within a larger file, in bytes.
      size: its bytes; 0: the whole file is read.
    """
    fresh = self._process is None
    if self._process is None:
      self._process = self._started()
    deadline = time.monotonic() + self._seconds + (_START if fresh else 0)
    try:
      request = {"path": path, "start": start, "end": end, "offset": offset, "size": size}
      return self._ask(self._process, request, deadline)
    except TimeoutError:
      self.close()
      return self._too_long(path)
    except (EOFError, BrokenPipeError):
      code = self._process.wait()
      self._process = None
      if code == -signal.SIGALRM:
        return self._too_long(path)
      how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
      return SkippedClip(path, "undecodable", f"the decoder crashed ({how})", again=True)

  def _too_long(self, path: str) -> SkippedClip:
    return SkippedClip(path, "undecodable", f"the decoder did not finish within {self._seconds:g} s", again=True)

  def _started(self) -> subprocess.Popen[bytes]:
    # By its own interpreter with the same modules in reach; one thread, since builds fill the cores with processes.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
      [sys.executable, "-c", _COMMAND, self._settings],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=environment,
    )

  def _ask(self, process: Any, request: dict[str, Any], deadline: float) -> list[bytes] | SkippedClip:
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    (length,) = struct.unpack(">I", _read(process.stdout, 4, deadline))
    header = json.loads(_read(process.stdout, length, deadline))
    if "reason" in header:
      return SkippedClip(request["path"], header["reason"], header["detail"])
    data = memoryview(_read(process.stdout, sum(header["sizes"]), deadline))
    frames = []
    for size in header["sizes"]:
      frames.append(bytes(data[:size]))
      data = data[size:]
    return frames

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      for pipe in (self._process.stdin, self._process.stdout):
        if pipe:
          with contextlib.suppress(BrokenPipeError):
            pipe.close()
      self._process = None

  def __enter__(self) -> DecodeProcess:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _read(pipe: BinaryIO, count: int, deadline: float) -> bytearray:
  """Exactly `count` bytes. Raises TimeoutError after the deadline, EOFError where the process has ended."""
  data, descriptor = bytearray(), pipe.fileno()
  while len(data) < count:
    if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
      raise TimeoutError
    chunk = os.read(descriptor, min(count - len(data), 1 << 20))
    if not chunk:
      raise EOFError
    data += chunk
  return data


def serve() -> None:
  """The decoding process: answers requests from standard input until it ends."""
  settings = json.loads(sys.argv[1])
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library that prints must not garble the answers
  _limit_memory()
  stored, decode = FrameSettings(**settings["stored"]), decoder_by_name(settings["decoder"])
  for line in sys.stdin.buffer:
    request = json.loads(line)
    # Ended by the system: a decoder that hangs in C may never come back to Python.
    signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + _GRACE)
    header, frames = _answer(request, stored, decode)
    signal.setitimer(signal.ITIMER_REAL, 0)
    encoded = json.dumps(header).encode()
    answers.write(struct.pack(">I", len(encoded)) + encoded)
    answers.writelines(frames)
    answers.flush()


def _answer(request: dict[str, Any], stored: FrameSettings, decode: Any) -> tuple[dict[str, Any], list[bytes]]:
  try:
    if request["size"]:
      frames = [image_frame(_part(request), stored, request["path"])]
    else:
      frames = stored_frames(request["path"], stored, decode, request["start"], request["end"])
    return {"sizes": [len(frame) for frame in frames]}, frames
  except TooShort as error:
    return {"reason": "too_short", "detail": error.reason}, []
  except VideoError as error:
    reason = "missing" if error.reason == NO_SUCH_FILE else "undecodable"
    return {"reason": reason, "detail": error.reason}, []
  except UserError as error:
    return {"reason": "undecodable", "detail": str(error)}, []
  except MemoryError:
    return {"reason": "undecodable", "detail": f"needs more than {_MEMORY / 2**30:g} GiB to decode"}, []
  except Exception as error:  # whatever a damaged file brings about: this clip is lost, and said to be
    return {"reason": "undecodable", "detail": f"{type(error).__name__}: {error}"}, []


def _part(request: dict[str, Any]) -> bytes:
  with pathlib.Path(request["path"]).open("rb") as file:
    file.seek(request["offset"])
    return file.read(request["size"])


def _limit_memory() -> None:
  with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
