"""Decodes clips in a child process, so that a file that hangs or crashes the decoder costs one clip, not the build.

The parent writes one JSON request per line. The child answers with the length of a header (4 bytes), the header (JSON)
and the frames. Nothing is pickled. Time in which the parent itself did not run (SIGSTOP, a paused container) does not
count: the child was suspended, too.
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
from collections import Counter
from typing import IO, Any

from clipvip_jax.data.engine.coverage import SkippedClip
from clipvip_jax.data.engine.frame_extraction import (
  Decoder,
  FrameSettings,
  TooShortError,
  decoder_by_name,
  extract_frames,
  extract_image,
)
from clipvip_jax.input_pipeline.media_error import NO_SUCH_FILE, MediaError
from clipvip_jax.input_pipeline.media_notes import collect_notes
from clipvip_jax.utils.errors import TOO_MANY_FILES, UserError

STARTUP_SECONDS = 60.0  # added to the timeout of the first request: Python and FFmpeg are loaded
_MEMORY_LIMIT = 16 * 2**30  # bytes of address space
GRACE_SECONDS = 5.0  # after the timeout, the child ends itself in case its parent died
CHECK_SECONDS = 2.0  # between two looks at the clock
MAX_DELAY_SECONDS = 4.0  # of a look; after a longer one, the process was suspended
_COMMAND = f"from {__name__} import serve; serve()"


class DecodeProcess:
  """A child process that decodes clips, started on demand and restarted after a timeout or crash.

  Use it as a context manager, or call `close`.
  """

  def __init__(self, settings: FrameSettings, decoder: str = "pyav", timeout: float = 60.0):
    """Starts no process yet.

    Args:
      settings: How frames are sampled, resized and encoded.
      decoder: A name for `frame_extraction.decoder_by_name`.
      timeout: Limit for one clip in seconds.
    """
    self._settings = json.dumps(
      {"frame_settings": dataclasses.asdict(settings), "decoder": decoder, "alarm": timeout + GRACE_SECONDS}
    )
    self._timeout = timeout
    self._process: subprocess.Popen[bytes] | None = None

  @property
  def pid(self) -> int | None:
    """Id of the child process; None if there is none."""
    return None if self._process is None else self._process.pid

  def read_frames(
    self,
    path: str,
    start: float | None = None,
    end: float | None = None,
    offset: int = 0,
    size: int = 0,
    counts: Counter[str] | None = None,
  ) -> list[bytes] | SkippedClip:
    """Returns the JPEG frames of a clip, or why it is skipped.

    Args:
      path: A local video file, image, folder of frames, or file that contains an image.
      start: Start of the clip in seconds; None: start of the video.
      end: End of the clip in seconds; None: end of the video.
      offset: Offset in bytes of an image within a larger file.
      size: Size in bytes of an image within a larger file; 0: the file is the video or image.
      counts: Counts of clips by `media_notes`, updated for this clip.

    Raises:
      OSError: Too many files are open, which says nothing about the clip.
    """
    request = {"path": path, "start": start, "end": end, "offset": offset, "size": size}
    deadline = _Deadline(self._timeout + (STARTUP_SECONDS if self._process is None else 0.0))
    self._process = self._process or self._start()
    try:
      return _send_request(self._process, request, deadline, Counter() if counts is None else counts)
    except TimeoutError:
      self.close()
      return self._timed_out(path)
    except (EOFError, BrokenPipeError):
      code = self._process.wait()
      self._process = None
      if code == -signal.SIGALRM and deadline.was_suspended:  # the child's clock has counted that time
        return self.read_frames(path, start, end, offset, size, counts)
      if code == -signal.SIGALRM:
        return self._timed_out(path)
      cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
      return SkippedClip(path, "undecodable", f"the decoder crashed ({cause})", retry=True)

  def close(self) -> None:
    """Kills the child process."""
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

  def _timed_out(self, path: str) -> SkippedClip:
    return SkippedClip(path, "undecodable", f"the decoder hung: no result within {self._timeout:g} s", retry=True)

  def _start(self) -> subprocess.Popen[bytes]:
    # The same interpreter and module path. One thread: builds run one process per core.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
      [sys.executable, "-c", _COMMAND, self._settings],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=environment,
    )


class _Deadline:
  """End of the time that a request may take, extended by the time for which this process was suspended.

  Attributes:
    was_suspended: whether it was, since the creation.
  """

  def __init__(self, seconds: float):
    self._end = time.monotonic() + seconds
    self.was_suspended = False

  def wait(self, descriptor: int) -> None:
    """Waits until a file descriptor has data. Raises TimeoutError after the deadline."""
    while True:
      start = time.monotonic()
      ready = select.select([descriptor], [], [], min(max(0.0, self._end - start), CHECK_SECONDS))[0]
      now = time.monotonic()
      if now - start > CHECK_SECONDS + MAX_DELAY_SECONDS:
        self._end += now - start
        self.was_suspended = True
      if ready:
        return
      if now >= self._end:
        raise TimeoutError


def _send_request(
  process: subprocess.Popen[bytes], request: dict[str, Any], deadline: _Deadline, counts: Counter[str]
) -> list[bytes] | SkippedClip:
  assert process.stdin is not None and process.stdout is not None
  process.stdin.write(json.dumps(request).encode() + b"\n")
  process.stdin.flush()
  (length,) = struct.unpack(">I", _read(process.stdout, 4, deadline))
  header = json.loads(_read(process.stdout, length, deadline))
  if "errno" in header:
    raise OSError(header["errno"], os.strerror(header["errno"]), request["path"])
  if "reason" in header:
    return SkippedClip(request["path"], header["reason"], header["detail"])
  counts.update(header["notes"])
  data = memoryview(_read(process.stdout, sum(header["sizes"]), deadline))
  frames = []
  for size in header["sizes"]:
    frames.append(bytes(data[:size]))
    data = data[size:]
  return frames


def _read(pipe: IO[bytes], count: int, deadline: _Deadline) -> bytearray:
  """Reads exactly `count` bytes. Raises TimeoutError after the deadline, EOFError if the process ended."""
  data, descriptor = bytearray(), pipe.fileno()
  while len(data) < count:
    deadline.wait(descriptor)
    chunk = os.read(descriptor, min(count - len(data), 1 << 20))
    if not chunk:
      raise EOFError
    data += chunk
  return data


def serve() -> None:
  """Answers requests from standard input until it is closed; the main function of the child process."""
  settings = json.loads(sys.argv[1])
  answers = os.fdopen(os.dup(1), "wb")
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # output of libraries must not mix with answers
  _limit_memory()
  frame_settings, decode = FrameSettings(**settings["frame_settings"]), decoder_by_name(settings["decoder"])
  for line in sys.stdin.buffer:
    request = json.loads(line)
    # The system ends the process: a decoder that hangs in C may never return to Python.
    signal.setitimer(signal.ITIMER_REAL, settings["alarm"])
    header, frames = _answer(request, frame_settings, decode)
    signal.setitimer(signal.ITIMER_REAL, 0)
    encoded = json.dumps(header).encode()
    answers.write(struct.pack(">I", len(encoded)) + encoded)
    answers.writelines(frames)
    answers.flush()


def _answer(request: dict[str, Any], settings: FrameSettings, decode: Decoder) -> tuple[dict[str, Any], list[bytes]]:
  try:
    with collect_notes() as notes:
      if request["size"]:
        frames = [extract_image(_read_part(request), settings, request["path"])]
      else:
        frames = extract_frames(request["path"], settings, decode, request["start"], request["end"])
    return {"sizes": [len(frame) for frame in frames], "notes": sorted(notes)}, frames
  except TooShortError as error:
    return {"reason": "too_short", "detail": error.reason}, []
  except MediaError as error:
    reason = "missing" if error.reason == NO_SUCH_FILE else "undecodable"
    return {"reason": reason, "detail": error.reason}, []
  except UserError as error:
    return {"reason": "undecodable", "detail": str(error)}, []
  except MemoryError:
    return {"reason": "undecodable", "detail": f"decoding needs more than {_MEMORY_LIMIT / 2**30:g} GiB of memory"}, []
  except Exception as error:  # libraries raise anything for corrupt files; the clip is skipped and reported
    if (number := getattr(error, "errno", None)) in TOO_MANY_FILES:
      return {"errno": number}, []
    return {"reason": "undecodable", "detail": f"{type(error).__name__}: {error}"}, []


def _read_part(request: dict[str, Any]) -> bytes:
  with pathlib.Path(request["path"]).open("rb") as file:
    file.seek(request["offset"])
    return file.read(request["size"])


def _limit_memory() -> None:
  with contextlib.suppress(ImportError, ValueError, OSError):  # not supported on all systems
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, resource.getrlimit(resource.RLIMIT_AS)[1]))
