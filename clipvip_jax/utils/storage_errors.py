"""Diagnosis of the errors of object stores: gcsfs, s3fs and what they are built on, and TensorStore.

Messages of libraries are never part of a diagnosis: they may hold signed addresses and tokens.
"""

import dataclasses
import re
from collections.abc import Iterator

_GOOGLE_REMEDY = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
_AMAZON_REMEDY = "run `aws configure`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class TransferError(Exception):
  """The bytes that arrived are not those that were sent."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """Why a store refused a request.

  Attributes:
    reason: what is wrong with the bucket, as the end of a sentence that begins with its name.
    remedy: what to do.
    transient: whether the same request may succeed later.
  """

  reason: str
  remedy: str
  transient: bool = False


def no_bucket() -> Problem:
  """Returns the problem of a bucket that does not exist."""
  return Problem("does not exist", "check its name, or create it")


def _no_credentials(scheme: str) -> Problem:
  return Problem("needs credentials that are valid", _GOOGLE_REMEDY if scheme == "gs" else _AMAZON_REMEDY)


def _no_permission(scheme: str) -> Problem:
  rights = (
    "the role Storage Object User"
    if scheme == "gs"
    else "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
  )
  return Problem("permits no access with these credentials", f"grant them {rights} on the bucket, or use others")


def _unreachable(scheme: str) -> Problem:
  variable = "STORAGE_EMULATOR_HOST" if scheme == "gs" else "AWS_ENDPOINT_URL"
  return Problem("cannot be reached", f"check the network, and {variable} where it is set", transient=True)


_TIMEOUT = Problem("did not answer in time", "check the network", transient=True)
_BUSY = Problem("refuses requests for the moment", "try again later", transient=True)
_CORRUPT = Problem("returned other bytes than were written", "check the network", transient=True)
_REGION = Problem("is in another region", "set AWS_REGION to its region")
_NAME = Problem("is not the name of a bucket", "check it")
_INVALID = Problem("refuses a request as invalid", "check the names of bucket and object")
_UNSUPPORTED = Problem("has no conditional writes, which locks need", "use a bucket of another store")

# By type of error, in any library.
_TYPES = {
  "credentials": r"NoCredentialsError|PartialCredentialsError|DefaultCredentialsError|RefreshError|ProfileNotFound"
  r"|TokenRetrievalError|CredentialRetrievalError|SSOTokenLoadError|UnauthorizedSSOTokenError|TokenExpiredError",
  "timeout": r"FSTimeoutError|TimeoutError|ServerTimeoutError|ConnectionTimeoutError|SocketTimeoutError"
  r"|ConnectTimeoutError|ReadTimeoutError|ReadTimeout|ConnectTimeout|Timeout",
  "network": r"ClientConnectorError|ClientConnectorDNSError|ClientOSError|ClientConnectionError"
  r"|ClientConnectionResetError|ServerDisconnectedError|ClientPayloadError|EndpointConnectionError|ConnectionClosedError"
  r"|HTTPClientError|ConnectionError|ProxyError|ProxyConnectionError|SSLError|ClientConnectorCertificateError"
  r"|ChunkedEncodingError|TransportError|IncompleteRead|IncompleteReadError|ResponseStreamingError|gaierror"
  r"|ConnectionResetError|ConnectionRefusedError|BrokenPipeError|ConnectionAbortedError|ResponseParserError",
  "corrupt": r"TransferError|ChecksumError|FlexibleChecksumError",
  "name": r"ParamValidationError",
}
# By code, of S3 and of TensorStore, which begins its messages with it.
_CODES = {
  "bucket": r"NoSuchBucket",
  "name": r"InvalidBucketName",
  "credentials": r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|TokenRefreshRequired"
  r"|RequestTimeTooSkewed|UNAUTHENTICATED",
  "permission": r"AccessDenied|AllAccessDisabled|AccountProblem|PERMISSION_DENIED",
  "region": r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraintException",
  "timeout": r"RequestTimeout|DEADLINE_EXCEEDED",
  "busy": r"SlowDown|ServiceUnavailable|InternalError|Throttling|ThrottlingException|RequestLimitExceeded"
  r"|ConditionalRequestConflict|OperationAborted|UNAVAILABLE|RESOURCE_EXHAUSTED|ABORTED|INTERNAL",
  "corrupt": r"BadDigest|InvalidDigest|IncompleteBody|XAmzContentSHA256Mismatch",
  "unsupported": r"NotImplemented",
  "invalid": r"INVALID_ARGUMENT",
}
_STATUS = {
  400: "invalid",
  301: "region",
  401: "credentials",
  403: "permission",
  408: "timeout",
  429: "busy",
  501: "unsupported",
}


def diagnose(error: BaseException, scheme: str) -> Problem | None:
  """Returns why a store refused a request, from an error and those that it was raised from.

  Args:
    error: raised by a library.
    scheme: "gs" or "s3".

  Returns:
    None if no error is one of a store.
  """
  for link in _chain(error):
    kind = _kind(link)
    if kind in ("credentials", "permission", "network"):
      return {"credentials": _no_credentials, "permission": _no_permission, "network": _unreachable}[kind](scheme)
    if kind == "bucket":
      return no_bucket()
    if kind:
      return {
        "timeout": _TIMEOUT,
        "busy": _BUSY,
        "corrupt": _CORRUPT,
        "region": _REGION,
        "name": _NAME,
        "invalid": _INVALID,
        "unsupported": _UNSUPPORTED,
      }[kind]
  return None


def is_precondition_failure(error: BaseException) -> bool:
  """Returns whether an object was changed by another process, so that a conditional write did not take place."""
  return any(
    isinstance(link, FileExistsError)
    or _code(link) in ("PreconditionFailed", "ConditionalRequestConflict")
    or _status(link) == 412
    for link in _chain(error)
  )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """Yields the causes of an error first: libraries translate codes to classes that say less."""
  links = []
  while error is not None and error not in links:
    links.append(error)
    error = error.__cause__ or error.__context__
  return reversed(links)


def _kind(error: BaseException) -> str:
  """Returns a key of `_TYPES` or `_CODES`; "" for an error that is not one of a store."""
  code, status = _code(error), _status(error)
  for kind, pattern in _CODES.items():
    if re.fullmatch(pattern, code):
      return kind
  if status in _STATUS:
    return _STATUS[status]
  if status >= 500:
    return "busy"
  for kind, pattern in _TYPES.items():
    if any(re.fullmatch(pattern, base.__name__) for base in type(error).__mro__):
      return kind
  is_forbidden = isinstance(error, PermissionError) or str(error).startswith("Forbidden: ")  # s3fs, gcsfs
  is_local = not isinstance(error, OSError) or error.errno is not None
  if is_forbidden and not is_local:
    return "permission"
  return "invalid" if isinstance(error, ValueError) and str(error).startswith("Bad Request: ") else ""  # gcsfs


def _code(error: BaseException) -> str:
  """Returns the code of an error of S3 or TensorStore, such as AccessDenied or PERMISSION_DENIED."""
  response = getattr(error, "response", None)
  if isinstance(response, dict):
    return str(response.get("Error", {}).get("Code", ""))
  match = re.match(r"([A-Z_]{5,}): ", str(error)) if isinstance(error, ValueError | RuntimeError) else None
  return match[1] if match else ""


def _status(error: BaseException) -> int:
  """Returns the HTTP status of an error; 0 if it has none."""
  response = getattr(error, "response", None)
  if isinstance(response, dict):  # botocore
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
  elif type(error).__module__.startswith(("gcsfs", "google", "aiohttp")):
    status = getattr(error, "code", None) or getattr(error, "status", 0)
  else:
    status = 0
  return int(status) if re.fullmatch(r"\d{3}", str(status)) else 0
