"""Videos with speech: bursts of a tone, or sentences of espeak-ng, at known times; and an endpoint that hears them."""

import collections
import ctypes
import email
import functools
import http.server
import io
import json
import re
import socketserver
import threading
import wave

import numpy as np

RATE = 16_000
SENTENCES = (
  "The cat sat on the mat.",
  "It looked at the door, and waited.",
  "Then somebody came in with a large bowl of milk!",
  "Was it for the cat?",
  "Nobody knew.",
)


def tone_burst(text):
  """Returns int16 samples that are as long as the text would take, without a pause."""
  times = np.arange(int(0.07 * len(text) * RATE)) / RATE
  return (9000 * np.sin(2 * np.pi * 220 * times)).astype(np.int16)


@functools.cache
def load_espeak():
  """Returns (the library, its rate): samples are passed to a callback."""
  import espeakng_loader

  library = ctypes.CDLL(espeakng_loader.get_library_path())
  rate = library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
  assert rate > 0
  return library, rate


def espeak(text):
  """Returns int16 samples of a text that espeak-ng speaks, without the silence around it; needs espeakng_loader."""
  library, rate = load_espeak()
  parts = []

  @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
  def receive(samples, count, _):
    if count > 0:
      parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
    return 0

  library.espeak_SetSynthCallback(receive)
  data = text.encode()
  library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, 1, None, None)
  samples = np.concatenate(parts).astype(np.float32)
  times = np.arange(int(len(samples) * RATE / rate)) * rate / RATE
  samples = np.interp(times, np.arange(len(samples)), samples)
  loud = np.flatnonzero(np.abs(samples) > 200)
  return samples[loud[0] : loud[-1] + 1].astype(np.int16)


def place(speech, pauses):
  """Returns (samples, [(start, end)] in seconds) of parts of speech, each after a pause of some seconds."""
  parts, spans, count = [], [], 0
  for samples, pause in zip(speech, pauses, strict=True):
    count += round(pause * RATE)
    parts += [np.zeros(round(pause * RATE), np.int16), samples]
    spans.append((count / RATE, (count + len(samples)) / RATE))
    count += len(samples)
  return np.concatenate([*parts, np.zeros(RATE, np.int16)]), spans


def write_spoken_video(path, samples, fps=6, codec="aac", audio_delay=0.0, silent_picture=True, frames=None):
  """Writes a video with samples at RATE as its sound, which begins `audio_delay` seconds after the pictures.

  The pictures are `frames`, or grey; there are none without `silent_picture`.
  """
  import av

  with av.open(str(path), "w") as file:
    if silent_picture:
      picture = file.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
      if frames is None:
        levels = 40 + np.arange(round((len(samples) / RATE + audio_delay) * fps)) % 100
        frames = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (len(levels), 48, 64, 3))
      picture.width, picture.height, picture.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    sound = file.add_stream(codec, rate=RATE, layout="mono")
    resampler = av.AudioResampler(
      format=sound.format.name, layout="mono", rate=RATE, frame_size=sound.frame_size or 1024
    )
    if silent_picture:
      for frame in frames:
        file.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
      file.mux(picture.encode())
    for first in range(0, len(samples), 1024):
      frame = av.AudioFrame.from_ndarray(samples[None, first : first + 1024], format="s16", layout="mono")
      frame.sample_rate, frame.pts = RATE, first + round(audio_delay * RATE)
      for resampled in resampler.resample(frame):
        file.mux(sound.encode(resampled))
    for resampled in resampler.resample(None):
      file.mux(sound.encode(resampled))
    file.mux(sound.encode())
  return path


def hear(samples, threshold=400, min_pause=0.3):
  """Returns [(start, end)] in seconds of sound between pauses: what an ideal recogniser hears."""
  window = RATE // 100
  count = len(samples) // window
  loud = np.abs(samples[: count * window].reshape(count, window).astype(np.int32)).max(axis=1) > threshold
  spans = []
  for index in np.flatnonzero(loud):
    start, end = index * window / RATE, (index + 1) * window / RATE
    if spans and start - spans[-1][1] < min_pause:
      spans[-1] = spans[-1][0], end
    else:
      spans.append((start, end))
  return spans


class SpeechServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
  """An endpoint of the transcription protocol on localhost that hears the sentences of SENTENCES in turn.

  It measures times in the sound that it receives. Use it as a context manager.

  Attributes:
    url: for --endpoint.
    fault: called with the number of a request, from 0; returns a status, "garbage", "text" (no times) or "".
    requests: (fields, authorization) of each request.
    texts: of the sentences, by the number of the sentence in each sound; or a function that returns them for samples.
  """

  daemon_threads = True

  def __init__(self, texts=SENTENCES, fault=lambda number: "", min_pause=0.3):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.texts, self.fault, self.min_pause, self.requests = texts, fault, min_pause, []
    self.url = f"http://127.0.0.1:{self.server_port}/v1"

  def __enter__(self):
    threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
    return self

  def __exit__(self, *_):
    self.shutdown()
    self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: SpeechServer

  def log_message(self, *_):
    pass

  def do_GET(self):
    self._send(200, b'{"data": []}')

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
    parts = list(email.message_from_bytes(head + body).walk())[1:]
    fields = collections.defaultdict(list)
    for part in parts:
      name = re.search(r'name="([^"]*)"', part["Content-Disposition"])[1]
      fields[name].append(part.get_payload(decode=True))
    assert self.path == "/v1/audio/transcriptions"
    sound = fields.pop("file")[0]
    self.server.requests.append(
      ({k: [x.decode() for x in v] for k, v in fields.items()}, self.headers["Authorization"])
    )
    fault = self.server.fault(len(self.server.requests) - 1)
    if fault.isdigit():
      return self._send(int(fault), json.dumps({"error": f"no, {self.headers['Authorization']}"}).encode())
    if fault == "garbage":
      return self._send(200, b'{"segments": [{"start": "now"')
    if fault == "text":
      return self._send(200, b'{"text": "some words"}')
    with wave.open(io.BytesIO(sound)) as file:
      assert file.getframerate() == RATE
      samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    spans = hear(samples, min_pause=self.server.min_pause)
    texts = self.server.texts(samples) if callable(self.server.texts) else self.server.texts
    segments = [{"start": a, "end": b, "text": f" {text}"} for (a, b), text in zip(spans, texts, strict=False)]
    return self._send(200, json.dumps({"segments": segments, "text": "", "duration": 1}).encode())

  def _send(self, status, data):
    self.send_response(status)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)
