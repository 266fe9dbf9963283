"""A stub of the HuggingFace Hub on localhost: repositories, branches, LFS uploads, commits and downloads.

It implements the endpoints that huggingface_hub uses, keeps everything in memory, and records the requests.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import urllib.parse

import yaml
from huggingface_hub import constants, utils

TOKEN = "hf_" + "tokenOfTheTests" * 2
OWNER = "someone"
LICENSES = ("apache-2.0", "mit", "other")


@dataclasses.dataclass
class Repository:
  """Branches and commits; a commit is {path: content}."""

  private: bool = False
  branches: dict[str, str] = dataclasses.field(default_factory=dict)
  commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

  def commit(self, branch, files):
    """Adds a commit and returns its id."""
    content = repr((len(self.commits), sorted(files.items()))).encode()
    oid = hashlib.sha1(content).hexdigest()
    self.commits[oid] = files
    self.branches[branch] = oid
    return oid

  def find(self, revision):
    """The id of a commit that a branch or an id names; None if there is none."""
    return revision if revision in self.commits else self.branches.get(revision)

  @property
  def files(self):
    """Files of the main branch."""
    return self.commits[self.branches["main"]]


class Stub:
  """The state of the Hub.

  Attributes:
    repositories: by OWNER/NAME.
    requests: (method, path, authorization) of all requests.
    failures: {(method, start of the path): (status, message)} of requests that are refused.
    messages: of commits.
  """

  def __init__(self):
    self.repositories, self.blobs = {}, {}
    self.requests, self.failures, self.messages = [], {}, []
    self.url = ""

  def create(self, name, files=(), *, private=False):
    """Creates a repository with files beside .gitattributes."""
    repository = self.repositories[name] = Repository(private)
    repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **dict(files)})
    return repository

  def commits_of(self, name):
    """Number of commits after the one that creates a repository."""
    return len(self.repositories[name].commits) - 1


class Refused(Exception):
  """A status with a message, and the code by which huggingface_hub recognises it."""

  def __init__(self, status, message, code=""):
    super().__init__(message)
    self.status, self.code = status, code


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers one request after the other of a connection."""

  protocol_version = "HTTP/1.1"
  stub: Stub

  def log_message(self, *_):
    pass

  def do_GET(self):
    self._answer()

  do_POST = do_PUT = do_HEAD = do_GET

  def _answer(self):
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    path = urllib.parse.urlsplit(self.path).path
    self.stub.requests.append((self.command, path, self.headers.get("Authorization")))
    headers = {}
    try:
      for (method, start), (status, message) in self.stub.failures.items():
        if method == self.command and path.startswith(start):
          raise Refused(status, message)
      content, headers = self._route([urllib.parse.unquote(part) for part in path.strip("/").split("/")], body)
      status = 200
    except Refused as refused:
      status, content = refused.status, json.dumps({"error": str(refused)}).encode()
      headers = {"X-Error-Code": refused.code} if refused.code else {}
    self.send_response(status)
    for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _route(self, parts, body):
    match [self.command, *parts]:
      case ["POST", "api", "validate-yaml"]:
        return reply(self._validate(json.loads(body)))
      case ["POST", "api", "repos", "create"]:
        return reply(self._create(json.loads(body)))
      case ["PUT", "lfs", oid]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.stub.blobs[oid] = body
        return reply({})
      case ["POST", owner, name, "info", "lfs", "objects", "batch"]:
        self._repository(f"{owner}/{name.removesuffix('.git')}", write=True)
        return reply({"objects": [self._lfs(x) for x in json.loads(body)["objects"]]})
      case [("GET" | "HEAD"), owner, name, "resolve", revision, file]:
        return self._file(f"{owner}/{name}", revision, file)
      case [("GET" | "POST"), "api", "models", owner, name, *rest]:
        write = bool(rest) and rest[0] in ("branch", "preupload", "commit")
        repository = self._repository(f"{owner}/{name}", write=write)
        return reply(self._model(f"{owner}/{name}", repository, rest, body))
    raise Refused(404, f"the stub has no {self.command} {self.path}")

  def _validate(self, request):
    card = yaml.safe_load(request["content"].split("---")[1])
    if card["license"] not in LICENSES:
      raise Refused(400, '"license" must be one of ' + ", ".join(LICENSES))
    return {"errors": [], "warnings": []}

  def _create(self, request):
    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
      raise Refused(401, "Invalid username or password.")
    name = f"{request['organization']}/{request['name']}"
    if request["organization"] != OWNER:
      raise Refused(403, f"You don't have the rights to create a model under the namespace {request['organization']!r}")
    if name in self.stub.repositories:
      raise Refused(409, "You already created this model repo")
    self.stub.create(name, private=request.get("visibility") == "private" or request.get("private") is True)
    return {"url": f"{self.stub.url}/{name}"}

  def _repository(self, name, *, write=False):
    """Returns a repository that the token may read or write."""
    token = self.headers.get("Authorization")
    if token not in (None, f"Bearer {TOKEN}"):
      raise Refused(401, "Invalid credentials in Authorization header")
    repository = self.stub.repositories.get(name)
    if repository is None or (repository.private and token is None):
      raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
    if write and not name.startswith(f"{OWNER}/"):
      raise Refused(403, "Forbidden: pass a token with write access")
    return repository

  def _model(self, name, repository, rest, body):
    match rest:
      case ["branch", branch]:
        start = json.loads(body).get("startingPoint", "main")
        repository.branches[branch] = repository.find(start)
        return {}
      case ["commit", branch]:
        return self._commit(name, repository, branch, body)
      case [] | ["revision" | "tree" | "paths-info" | "preupload", *_]:
        oid = repository.find(rest[1] if rest else "main")
        if oid is None:
          raise Refused(404, "Invalid rev id", "RevisionNotFound")
        files = repository.commits[oid]
    if rest[:1] == ["preupload"]:
      return {
        "files": [
          {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".pt")) else "regular",
            "shouldIgnore": False,
          }
          for file in json.loads(body)["files"]
        ]
      }
    if rest[:1] in (["tree"], ["paths-info"]):
      asked = files if rest[0] == "tree" else [x for x in urllib.parse.parse_qs(body.decode())["paths"] if x in files]
      return [
        {"type": "file", "path": x, "size": len(files[x]), "oid": hashlib.sha1(files[x]).hexdigest()} for x in asked
      ]
    return {"id": name, "sha": oid, "private": repository.private, "siblings": [{"rfilename": x} for x in files]}

  def _lfs(self, item):
    upload = {"href": f"{self.stub.url}/lfs/{item['oid']}"}
    return {**item, "actions": {"upload": upload}}

  def _commit(self, name, repository, branch, body):
    header, *operations = map(json.loads, body.splitlines())
    parent = repository.find(branch)
    if parent is None:
      raise Refused(404, "Invalid rev id", "RevisionNotFound")
    if header["value"].get("parentCommit") not in (None, parent):
      raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.commits[parent])
    for operation in operations:
      value = operation["value"]
      if operation["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      elif operation["key"] == "lfsFile":
        files[value["path"]] = self.stub.blobs[value["oid"]]
      else:
        del files[value["path"]]
    self.stub.messages.append(header["value"]["summary"])
    oid = repository.commit(branch, files)
    return {"commitUrl": f"{self.stub.url}/{name}/commit/{oid}", "commitOid": oid}

  def _file(self, name, revision, file):
    repository = self._repository(name)
    oid = repository.find(revision)
    content = repository.commits[oid].get(file) if oid else None
    if content is None:
      raise Refused(404, "Entry not found", "EntryNotFound" if oid else "RevisionNotFound")
    return content, {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}


def reply(value):
  """Returns JSON and no headers."""
  return json.dumps(value).encode(), {}


@contextlib.contextmanager
def serve(folder, monkeypatch):
  """Runs a stub that huggingface_hub uses in place of the Hub, with its cache in a folder, logged in with TOKEN."""
  stub = Stub()
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"stub": stub}))
  server.daemon_threads = True
  stub.url = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
  thread.start()
  template = stub.url + "/{repo_id}/resolve/{revision}/{filename}"
  values = {"ENDPOINT": stub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_DISABLE_XET": True}
  values |= {"HF_HUB_CACHE": str(folder / "cache"), "HF_TOKEN_PATH": str(folder / "token")}
  for name, value in values.items():
    monkeypatch.setattr(constants, name, value)
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  utils.disable_progress_bars()
  try:
    yield stub
  finally:
    utils.enable_progress_bars()
    server.shutdown()
    thread.join()
    server.server_close()
