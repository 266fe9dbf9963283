"""Benchmark of captions by an endpoint that takes 50 ms: requests per second against the limit of the concurrency.

  python -m benchmarks.caption_endpoint [--clips=2000] [--repeats=3]

The endpoint is a process of its own on this machine, whose work takes time from the client. Frames are JPEGs of 20 kB.
Times include the start of the client, the cleaning of answers and the files.
"""

import argparse
import asyncio
import json
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from clipvip_jax.captioning.caption_run import RunSettings, caption_clips
from clipvip_jax.captioning.endpoint import EndpointEngine, EndpointSettings
from clipvip_jax.captioning.frame_sources import ClipFrame
from clipvip_jax.input_pipeline.clip_tokenizer import ClipTokenizer

LATENCY, FRAME_BYTES = 0.05, 20_000
_CONCURRENCIES = (4, 8, 16, 32)
_ANSWER = json.dumps(
  {"model": "m", "choices": [{"message": {"content": "A dog runs on the beach."}, "finish_reason": "stop"}]}
).encode()


class RandomFrames:
  """A source of clips with random bytes as frames."""

  def __init__(self, clips: int):
    self._clips, self._frame = clips, np.random.default_rng(0).bytes(FRAME_BYTES)

  def __len__(self) -> int:
    return self._clips

  def describe(self) -> dict[str, Any]:
    """See `FrameSource`."""
    return {"clips": self._clips}

  def frames(self, numbers: Iterable[int]) -> Iterator[ClipFrame]:
    """See `FrameSource`."""
    return (ClipFrame(number, str(number), "train", self._frame) for number in numbers)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
  head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_ANSWER)}\r\n\r\n".encode()
  try:
    while True:
      request = (await reader.readuntil(b"\r\n\r\n")).lower()
      length = request.partition(b"content-length:")[2].split(b"\r\n")[0]
      started = time.monotonic()
      await reader.readexactly(int(length or 0))
      await asyncio.sleep(LATENCY - (time.monotonic() - started))
      writer.write(head + _ANSWER)
      await writer.drain()
  except (asyncio.IncompleteReadError, ConnectionError):
    writer.close()


async def _serve(port: Connection) -> None:
  server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=2**20)
  port.send(server.sockets[0].getsockname()[1])
  await server.serve_forever()


def _server(port: Connection) -> None:
  asyncio.run(_serve(port))


def measure(url: str, concurrency: int, clips: int) -> float:
  """Returns clips per second."""
  engine = EndpointEngine(EndpointSettings(urls=(url,), model="m", prompt="", concurrency=concurrency))
  with tempfile.TemporaryDirectory() as folder:
    settings = RunSettings(out=pathlib.Path(folder, "out"), tokenizer=ClipTokenizer(), text_length=70)
    started = time.perf_counter()
    caption_clips(RandomFrames(clips), engine, settings)
    return clips / (time.perf_counter() - started)


def main() -> None:
  """Starts the endpoint, measures and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--clips", type=int, default=2000)
  parser.add_argument("--repeats", type=int, default=3)
  options = parser.parse_args()
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  server = context.Process(target=_server, args=(sender,), daemon=True)
  server.start()
  url = f"http://127.0.0.1:{receiver.recv()}/v1"
  print("concurrency  limit/s  clips/s  ratio (best of, all)")
  for concurrency in _CONCURRENCIES:
    limit = concurrency / LATENCY
    rates = [measure(url, concurrency, min(options.clips, round(10 * limit))) for _ in range(options.repeats)]
    ratios = " ".join(f"{rate / limit:.2f}" for rate in rates)
    print(f"{concurrency:11d}  {limit:7.0f}  {max(rates):7.0f}  {max(rates) / limit:.2f} ({ratios})", flush=True)
  server.terminate()


if __name__ == "__main__":
  main()
