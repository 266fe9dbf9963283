"""Commits to a stub of the Hub: what is replaced, deleted and refused."""

import hub_stub
import pytest

from clipvip_jax.utils.errors import UserError
from clipvip_jax.weights import hub_upload

NAME = f"{hub_stub.OWNER}/shapes"
TARGET = f"hf://{NAME}"
CARD = "---\nlicense: mit\n---\n# shapes\n"
FILES = {"README.md": CARD, "clip_vip.safetensors": "weights", "config.json": '{"clipvip_jax": {"crop": "center"}}'}


@pytest.fixture
def hub(tmp_path, monkeypatch):
  with hub_stub.serve(tmp_path, monkeypatch) as stub:
    yield stub


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / "export"
  path.mkdir()
  for name, content in FILES.items():
    (path / name).write_text(content)
  return path


def publish(folder, target=TARGET, *, private=False, overwrite=False):
  destination = hub_upload.find_destination(target, private=private, overwrite=overwrite)
  return hub_upload.upload(folder, destination, private=private, message="Upload")


def refused(folder, message, target=TARGET, **options):
  with pytest.raises(UserError, match=message) as error:
    publish(folder, target, **options)
  assert "\n" not in str(error.value) and hub_stub.TOKEN not in str(error.value)
  return str(error.value)


def decoded(files):
  return {name: content.decode() for name, content in files.items() if name != ".gitattributes"}


def test_new_repository_has_one_commit_of_all_files(hub, folder):
  url = publish(folder, private=True)
  repository = hub.repositories[NAME]
  assert url == f"{hub.url}/{NAME}/commit/{repository.branches['main']}"
  assert decoded(repository.files) == FILES and repository.private and hub.commits_of(NAME) == 1


def test_new_branch_starts_from_the_main_branch_which_stays_as_it_is(hub, folder):
  publish(folder)
  (folder / "config.json").write_text('{"clipvip_jax": {}}')
  publish(folder, f"{TARGET}@trial/a")
  repository = hub.repositories[NAME]
  assert decoded(repository.files) == FILES
  assert decoded(repository.commits[repository.branches["trial/a"]]) == {**FILES, "config.json": '{"clipvip_jax": {}}'}
  publish(folder, f"hf://{hub_stub.OWNER}/new@trial")
  assert decoded(hub.repositories[f"{hub_stub.OWNER}/new"].files) == {}


def test_earlier_export_is_replaced_and_what_would_be_read_first_deleted(hub, folder):
  publish(folder)
  repository = hub.repositories[NAME]
  repository.commit("main", {**repository.files, "model.safetensors": b"of another layout", "notes.md": b"mine"})
  (folder / "clip_vip.safetensors").unlink()
  (folder / "open_clip_model.safetensors").write_text("new")
  publish(folder)
  assert repository.files.keys() - {".gitattributes"} == {
    "README.md",
    "config.json",
    "notes.md",
    "open_clip_model.safetensors",
  }
  assert hub.commits_of(NAME) == 3


def test_branch_that_changed_since_it_was_looked_up_is_refused(hub, folder):
  publish(folder)
  destination = hub_upload.find_destination(TARGET, private=False, overwrite=False)
  theirs = hub.repositories[NAME].commit("main", {"README.md": b"theirs"})
  (folder / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"answered 412 .*the repository changed meanwhile: repeat the command"):
    hub_upload.upload(folder, destination, private=False, message="Upload")
  assert hub.repositories[NAME].branches["main"] == theirs


def test_repository_that_was_created_meanwhile_is_refused(hub, folder):
  """It may be public, while the upload is private."""
  destination = hub_upload.find_destination(TARGET, private=True, overwrite=False)
  hub.create(NAME)
  with pytest.raises(UserError, match=r"answered 409 .*the repository changed meanwhile: repeat the command"):
    hub_upload.upload(folder, destination, private=True, message="Upload")
  assert hub.commits_of(NAME) == 0


@pytest.mark.parametrize(
  "files",
  [
    {"notes.md": b""},
    {"config.json": b"{}"},
    {"config.json": b'{"clipvip_jax": 1}'},
    {"config.json": b"[" * 100_000},
    {"open_clip_config.json": b"\xff{"},
    {"config.json": b'{"clipvip_jax": {}}' + b" " * (1 << 20)},
  ],
)
def test_repository_of_other_files_is_refused_unless_it_may_be_overwritten(hub, folder, files):
  repository = hub.create(NAME, files)
  message = (
    r"shapes holds other files \(\w+\.\w+\) than an export of this project; use another name, or add --overwrite"
  )
  refused(folder, message)
  assert hub.commits_of(NAME) == 0
  publish(folder, overwrite=True)
  assert decoded(repository.files).items() >= FILES.items()


def test_repository_of_another_layout_of_ours_is_replaced(hub, folder):
  hub.create(NAME, {"open_clip_config.json": b'{"clipvip_jax": {}}'})
  publish(folder)
  assert decoded(hub.repositories[NAME].files) == FILES


@pytest.mark.parametrize(
  ("target", "message"),
  [
    ("hf://someone", "expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
    ("hf://someone/a--b", "expected hf://OWNER/NAME"),
    ("hf://someone/x.git", "expected hf://OWNER/NAME"),
    ("hf://someone/-x", "expected hf://OWNER/NAME"),
    ("hf://someone/x/y", "expected hf://OWNER/NAME"),
    ("hf://someone/x@", "expected hf://OWNER/NAME"),
    ("hf://someone/x@../y", "expected hf://OWNER/NAME"),
    ("hf://someone/caf\u00e9\n", "expected hf://OWNER/NAME"),
    (f"hf://someone/{'x' * 97}", "expected hf://OWNER/NAME"),
    (f"{TARGET}@{'0' * 40}", "names a commit, which cannot change; use hf://someone/shapes or"),
  ],
)
def test_invalid_name_is_refused_without_a_request(hub, folder, target, message):
  refused(folder, message, target)
  assert not hub.requests


def test_name_without_permission_is_refused(hub, folder):
  refused(folder, r"hf://other/x cannot be written: the Hub answered 403 \(You don't have.*check OWNER", "hf://other/x")
  hub.create("other/x")
  refused(folder, "the Hub answered 403", "hf://other/x")
  assert hub.commits_of("other/x") == 0


def test_missing_and_invalid_tokens_are_refused(hub, folder, monkeypatch):
  monkeypatch.setenv("HF_TOKEN", "anotherToken")
  hub.create(NAME)
  assert "anotherT" not in refused(folder, r"answered 401.*log in with `hf auth login`, or set HF_TOKEN")
  monkeypatch.delenv("HF_TOKEN")
  refused(folder, "no token of the HuggingFace Hub; log in with `hf auth login`, or set HF_TOKEN")
  assert hub.commits_of(NAME) == 0


def test_public_repository_is_refused_as_a_private_one(hub, folder):
  hub.create(NAME)
  refused(folder, "is public, contrary to --private; make it private there, or use another name", private=True)


def test_gitignore_on_the_hub_is_refused(hub, folder):
  hub.create(NAME, {".gitignore": b"*.safetensors"})
  refused(folder, r"has a \.gitignore, which may exclude exported files; delete it there", overwrite=True)


@pytest.mark.parametrize(
  ("method", "path", "status", "message"),
  [
    ("POST", "/api/repos/create", 429, "answered 429 .*too many requests: repeat the command later"),
    ("POST", "/api/repos/create", 500, r"answered 500 \(sent \*\*\* by Bearer \*\*\*\); repeat the command later"),
    ("POST", "/api/models/someone/shapes/commit", 413, "answered 413 .*the files are too large for the Hub"),
    ("PUT", "/lfs", 403, "answered 403"),
    ("GET", "/api/models", 418, "answered 418 .*check the name and the token"),
  ],
)
def test_refusal_of_the_hub_takes_one_line_without_a_token(hub, folder, method, path, status, message):
  hub.failures[method, path] = (status, f"sent {hub_stub.TOKEN} by Bearer abc\nTraceback")
  refused(folder, message)


def test_license_that_the_hub_does_not_know_creates_no_repository(hub, folder):
  (folder / "README.md").write_text(CARD.replace("mit", "my-own"))
  refused(folder, r"cannot be written: .*license.* must be one of apache-2\.0, mit")
  assert not hub.repositories


def test_no_connection_takes_one_line(hub, folder, monkeypatch):
  monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://user:secret@127.0.0.1:9")
  assert "secret" not in refused(folder, r"no connection to the Hub \(.*refused.*\); check the network")
