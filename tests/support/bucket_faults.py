"""Answers of object stores, and the faults that are drawn for them."""

import dataclasses
import random
import re
import threading

KINDS = ("500", "429", "reset", "lost", "slow", "truncated")
ERRORS = {  # status: (reason of Google, code of S3, message of both)
  400: ("invalid", "InvalidRequest", "The request is invalid."),
  401: ("authError", "InvalidAccessKeyId", "Invalid credentials."),
  403: ("forbidden", "AccessDenied", "The caller does not have permission."),
  404: ("notFound", "NoSuchKey", "The specified object does not exist."),
  412: ("conditionNotMet", "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
  416: ("requestedRangeNotSatisfiable", "InvalidRange", "The requested range is not satisfiable."),
  429: ("rateLimitExceeded", "SlowDown", "Please reduce your request rate."),
  500: ("backendError", "InternalError", "We encountered an internal error. Please try again."),
  503: ("backendError", "SlowDown", "Please reduce your request rate."),
}


@dataclasses.dataclass
class Answer:
  """What a store answers to a request."""

  status: int
  headers: dict[str, str]
  body: bytes = b""


@dataclasses.dataclass
class Faults:
  """The faults of a server, drawn by seed.

  Attributes:
    rate: probability that a request has a fault.
    kinds: what is drawn from: a status; "reset" (of the connection, before the request has an effect); "lost" (reset
      after it had its effect); "slow" and "truncated" bodies. Not drawn by default: "short", the answer holds less of
      an object, as if that were all; "silent", there is no answer until the faults change.
    match: regular expression that "METHOD path?query" of a request must contain.
    limit: number of faults after which there are none; None: no limit.
    skip: number of requests that match and have none, before all others.
    latency: seconds that are added to every request.
    slow_seconds: duration of a slow body.
  """

  seed: int = 0
  rate: float = 0.0
  kinds: tuple[str, ...] = KINDS
  match: str = ""
  limit: int | None = None
  skip: int = 0
  latency: float = 0.0
  slow_seconds: float = 0.2

  def __post_init__(self):
    self._random, self._lock, self._count, self._skipped = random.Random(self.seed), threading.Lock(), 0, 0

  def draw(self, line):
    """Returns the fault of a request; "" for none."""
    with self._lock:
      if not re.search(self.match, line) or (self.limit is not None and self._count >= self.limit):
        return ""
      if self._skipped < self.skip:
        self._skipped += 1
        return ""
      kind = self._random.choice(self.kinds) if self._random.random() < self.rate else ""
      self._count += bool(kind)
      return kind
