"""Publishing a run on a stub of the Hub, and reading it back; refusals, and tokens in nothing that is written."""

import json
import logging
import re
import warnings

import hub_stub
import numpy as np
import published_run
import pytest
from huggingface_hub import utils

from clipvip_jax import convert
from clipvip_jax.inference import load_model
from clipvip_jax.utils import signals
from clipvip_jax.utils.cli import run_command
from clipvip_jax.utils.errors import UserError
from clipvip_jax.utils.log import log
from clipvip_jax.weights import sources

NAME = f"{hub_stub.OWNER}/shapes"
TARGET = f"hf://{NAME}"
FILES = {"README.md", "clip_vip.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return published_run.write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def hub(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with hub_stub.serve(tmp_path, monkeypatch) as stub:
    yield stub


def publish(run, *options, target=TARGET):
  convert.main([str(run), target, "--license=mit", *options])


def features(model):
  clips = np.random.default_rng(0).normal(size=(2, 6, 32, 32, 3)).astype(np.float32)
  return np.array(list(model.embed_pixels(clips))), model.embed_texts(["a red square", "up"])


def refused(run, message, *options, target=TARGET):
  with pytest.raises(UserError, match=message) as error:
    publish(run, *options, target=target)
  assert "\n" not in str(error.value) and hub_stub.TOKEN not in str(error.value)
  return str(error.value)


def test_published_run_gives_the_same_features_on_every_revision(hub, run):
  publish(run, "--private")
  publish(f"{run}@{published_run.STEPS[1]}", target=f"{TARGET}@trial/a")
  assert hub.repositories[NAME].private and hub.repositories[NAME].files.keys() == {*FILES, ".gitattributes"}
  expected = features(load_model.load(str(run)))
  assert not np.array_equal(expected[0], features(load_model.load(f"{run}@{published_run.STEPS[0]}"))[0])
  for source in (TARGET, f"{TARGET}@trial/a", f"{TARGET}@{hub.repositories[NAME].branches['main']}"):
    for x, y in zip(features(load_model.load(source)), expected, strict=True):
      np.testing.assert_array_equal(x, y)


def test_dry_run_writes_what_would_be_published_without_a_request(hub, run, tmp_path, monkeypatch):
  publish(run)
  published = hub.repositories[NAME].files
  requests = len(hub.requests)
  monkeypatch.delenv("HF_TOKEN")
  publish(run, "--dry-run")
  folder = tmp_path / "exports" / NAME
  assert len(hub.requests) == requests and {path.name for path in folder.iterdir()} == FILES
  assert all((folder / name).read_bytes() == published[name] for name in FILES)
  refused(run, r"exports/someone/shapes/README\.md already exists", "--dry-run")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ([TARGET], "--license is missing; allowed: identifiers of https://huggingface.co/docs"),
    ([TARGET, "--license=My License"], "--license=My License is not a license; allowed"),
    ([TARGET, "--license=other"], "--license=other needs --license_name"),
    ([TARGET, "--license=mit", "--license_name=x"], "no other license has one"),
    ([TARGET, "--license=other", "--license_name=x", "--license_link=ftp://x"], "must be an address https://"),
    (["https://huggingface.co/someone/shapes"], "TARGET=https://.* is neither a local path nor hf://OWNER/NAME"),
    (["folder", "--private"], "--private is an option of targets on the Hub; use hf://OWNER/NAME as TARGET"),
    (["folder", "--dry-run"], "--dry_run is an option of targets on the Hub"),
  ],
)
def test_options_that_do_not_fit_are_refused(hub, run, options, message):
  with pytest.raises(UserError, match=message):
    convert.main([str(run), *options])
  assert not hub.requests


def test_results_of_another_step_and_missing_ones_are_refused(hub, run, tmp_path):
  refused(f"{run}@3", r"results\.json is of step 6, the weights are of step 3; publish .*run@6, or finish")
  (tmp_path / "young").mkdir()
  (tmp_path / "young" / "checkpoints").mkdir()
  (tmp_path / "young" / "config.json").write_text((run / "config.json").read_text())
  refused(tmp_path / "young", r"young holds no results\.json, of which the model card is made; finish the run first")
  assert not hub.repositories


def test_weights_that_are_no_run_are_published_without_results(hub, run):
  publish(run)
  publish(TARGET, target=f"{TARGET}-copy")
  files = hub.repositories[f"{NAME}-copy"].files
  assert files["clip_vip.safetensors"] == hub.repositories[NAME].files["clip_vip.safetensors"]
  assert b"model-index" not in files["README.md"]


@pytest.fixture
def hub_log(caplog, monkeypatch):
  """What huggingface_hub logs: all requests with their headers."""
  monkeypatch.setattr("huggingface_hub.constants.HF_DEBUG", True)
  utils.logging.set_verbosity_debug()
  utils.logging.get_logger().addHandler(caplog.handler)
  yield caplog
  utils.logging.get_logger().removeHandler(caplog.handler)
  utils.logging.set_verbosity_warning()


@pytest.fixture
def command_log(monkeypatch):
  """Restores or omits what `run_command` changes: later tests of this process configure no logging and signals."""
  level = log.level
  monkeypatch.setattr(log, "propagate", log.propagate)
  monkeypatch.setattr(log, "handlers", [*log.handlers])
  monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
  monkeypatch.setattr(signals, "install", lambda: None)
  monkeypatch.setattr(logging.getLogger(), "filters", [*logging.getLogger().filters])
  yield
  log.setLevel(level)


def test_token_is_in_requests_and_in_nothing_else(hub, run, tmp_path, monkeypatch, capfd, hub_log, command_log):
  for target in (TARGET, "hf://other/x"):
    monkeypatch.setattr("sys.argv", ["convert", str(run), target, "--license=mit"])
    try:
      run_command(convert.main)
    except SystemExit as stop:
      assert stop.code == 2
  out, err = capfd.readouterr()
  commit = hub.repositories[NAME].branches["main"]
  assert re.search(rf"published {TARGET} \(layout clip_vip, 5 files\): http://\S+/commit/{commit}\n", out)
  assert err.splitlines()[-1].startswith("error: hf://other/x cannot be written: the Hub answered 403")
  assert "authorization: <TOKEN>" in hub_log.text
  assert f"Bearer {hub_stub.TOKEN}" in {authorization for _, _, authorization in hub.requests}
  sources.read_weights(TARGET)
  written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
  written += [
    *hub.repositories[NAME].files.values(),
    f"{out}{err}{hub_log.text}".encode(),
    "".join(hub.messages).encode(),
  ]
  assert len(written) > 10 and not any(hub_stub.TOKEN.encode() in content for content in written)
  assert json.loads(hub.repositories[NAME].files["config.json"])["clipvip_jax"]["num_frames"] == "6"


@pytest.mark.slow
def test_a_run_in_a_bucket_is_exported_into_the_bucket(bucket, run, tmp_path):
  source = bucket.upload(run, "runs/a")
  expected = features(load_model.load(str(run)))
  model = load_model.load(source)
  assert model.source == source and model.identity == load_model.load(str(run)).identity
  for target in ("exported", "file.safetensors"):
    convert.main([source, bucket / target])
    convert.main([str(run), str(tmp_path / target)])
  assert {name.partition("/")[2] for name in bucket.sizes() if name.startswith("exported/")} == FILES - {"README.md"}
  assert bucket.read("file.safetensors") == (tmp_path / "file.safetensors").read_bytes()
  for name in FILES - {"README.md"}:
    assert bucket.read(f"exported/{name}") == (tmp_path / "exported" / name).read_bytes()
  for found, value in zip(features(load_model.load(bucket / "exported")), expected, strict=True):
    np.testing.assert_array_equal(found, value)
  np.testing.assert_array_equal(features(model)[1], expected[1])
  for target in ("exported", "file.safetensors"):
    with pytest.raises(UserError, match=rf"{bucket / target}.* already exists; use another target, or add --overwrite"):
      convert.main([source, bucket / target])
  convert.main([f"{source}@3", bucket / "exported", "--overwrite"])
  assert bucket.read("exported/clip_vip.safetensors") != (tmp_path / "exported/clip_vip.safetensors").read_bytes()


def test_a_run_in_a_bucket_is_published_as_a_local_one(bucket, hub, run, tmp_path):
  publish(bucket.upload(run, "runs/a"), "--dry_run")
  (tmp_path / "exports").rename(tmp_path / "of_bucket")
  publish(run, "--dry_run")
  for path in (tmp_path / "exports").rglob("*.*"):
    assert (tmp_path / "of_bucket" / path.relative_to(tmp_path / "exports")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("target", ["run.safetensors", "folder"])
def test_the_log_has_one_line_with_all_files(run, target, tmp_path, caplog):
  with caplog.at_level("INFO", logger="clipvip_jax"):
    convert.main([str(run), str(tmp_path / target)])
  (line,) = [message for message in caplog.messages if "wrote" in message]
  path = tmp_path / target
  files = sorted(path.iterdir()) if path.is_dir() else [path]
  assert re.search(r"wrote [\d,]+ parameters in layout clip_vip: ", line)
  assert line.rpartition(": ")[2].split(", ") == list(map(str, files))
