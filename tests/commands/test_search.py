"""The command search: from an index to lines and a page, and wrong options."""

import signal

import miniature
import numpy as np
import pytest
from fake_model import FakeModel
from videos import write_videos

from clipvip_jax import embed, search
from clipvip_jax.inference import load_model, video_index
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.reporting.search_server import SearchServer
from clipvip_jax.utils.cli import exit_on_error
from clipvip_jax.utils.errors import Terminated, UserError


@pytest.mark.slow
def test_embeds_and_searches(tmp_path, capsys):
  (tmp_path / "clip").mkdir()
  miniature.write_clip(tmp_path / "clip")
  videos, index = write_videos(tmp_path / "v", 3), tmp_path / "i.safetensors"
  embed.main([f"--model={tmp_path / 'clip'}", f"--videos={tmp_path / 'v'}", f"--out={index}", "--crop=center"])
  assert video_index.read_index(index).crop == "center"  # which search loads the model with
  capsys.readouterr()
  page = tmp_path / "page.html"
  search.main([f"--index={index}", "a red square", "a square moves", "--top=2", f"--html={page}"])
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if not line.startswith(" ")] == ["a red square", "a square moves"]
  hits = [line.split() for line in lines if line.startswith(" ")]
  assert [rank for rank, _, _ in hits] == ["1", "2"] * 2
  assert {video for _, _, video in hits} <= {str(video) for video in videos}
  assert float(hits[0][1]) >= float(hits[1][1]) and page.read_text().count("data:image/jpeg;base64,") == 16


def write_index(path, names):
  """An index of the fake model, whose features are red, green, blue and red again."""
  features = np.eye(3, dtype=np.float32)[np.arange(len(names)) % 3]
  video_index.write_index(path, VideoIndex(features, names, "fake", "fake-1", [], []))
  return f"--index={path}"


@pytest.fixture
def fake_model(monkeypatch):
  monkeypatch.setattr(load_model, "load", lambda source, crop: FakeModel(crop=crop))


def printed_videos(capsys):
  return [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]


def test_searches_videos_that_fulfil_all_conditions(tmp_path, capsys, fake_model):
  names = [str(tmp_path / name) for name in ("a/r.mp4", "a/g.mp4", "b/b.mp4", "b/r.mp4")]
  index = write_index(tmp_path / "i.safetensors", names)
  (tmp_path / "m.csv").write_text("video,year\na/r.mp4,2019\na/g.mp4,2020\nb/r.mp4,2021\n")
  search.main([index, "red"])
  assert printed_videos(capsys) == [names[0], names[3], names[1], names[2]]
  search.main([index, "red", "--where=path=*/b/*"])
  assert printed_videos(capsys) == [names[3], names[2]]
  options = [index, "red", f"--metadata={tmp_path / 'm.csv'}", "--where=year>=2019", "--where=year<2021"]
  search.main([*options, "--approximate"])
  assert printed_videos(capsys) == [names[0], names[1]]
  search.main([index, "red", "--where=path=nothing"])
  assert printed_videos(capsys) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serves_the_page_until_it_is_interrupted(tmp_path, fake_model, monkeypatch, number, code):
  names = [str(video) for video in write_videos(tmp_path / "v", 3)]
  index = write_index(tmp_path / "i.safetensors", names)
  found = []

  def serve(server, search, index):
    found.extend(hit.video for hit in search("green", "path=*v*"))
    raise Terminated(number, "stopped")

  monkeypatch.setattr(SearchServer, "serve", serve)
  with pytest.raises(SystemExit) as stop:
    exit_on_error(lambda: search.main([index, "--serve", "--port=0", "--top=2", "--approximate"]))
  assert stop.value.code == code
  assert found == [names[1], names[0]]
  with SearchServer() as other, pytest.raises(UserError, match="cannot be opened"):
    search.main([index, "--serve", f"--port={other.server_address[1]}"])


def test_index_of_another_model_is_refused_before_it_is_served(tmp_path, fake_model):
  path = tmp_path / "i.safetensors"
  video_index.write_index(path, VideoIndex(np.eye(3, dtype=np.float32), list("abc"), "fake", "other", [], []))
  with pytest.raises(UserError, match="built with other weights"):
    search.main([f"--index={path}", "--serve", "--port=0"])


@pytest.mark.parametrize("options", [["red"], ["--serve", "--port=0"]])
def test_a_model_that_was_moved_is_named_with_the_option(tmp_path, options):
  path = tmp_path / "i.safetensors"
  video_index.write_index(path, VideoIndex(np.eye(3, dtype=np.float32), list("abc"), "gone/run", "other", [], []))
  message = r"'gone/run' is not a source .*nothing of this name\. The index names this model: .* with --model$"
  with pytest.raises(UserError, match=message):
    search.main([f"--index={path}", *options])
  with pytest.raises(UserError, match=r"'other/run' is not a source .*nothing of this name$"):
    search.main([f"--index={path}", "--model=other/run", *options])


@pytest.mark.parametrize("options", [["red"], ["--serve", "--port=0"]])
def test_a_model_without_tokenizer_is_refused_at_the_start(tmp_path, fake_model, monkeypatch, options):
  def fail(self, texts):
    raise UserError("no tokenizer is known")

  monkeypatch.setattr(FakeModel, "embed_texts", fail)
  monkeypatch.setattr(SearchServer, "serve", lambda server, search, index: pytest.fail("it is served"))
  with pytest.raises(UserError, match="no tokenizer is known"):
    search.main([write_index(tmp_path / "i.safetensors", ["a.mp4"]), *options])


@pytest.mark.slow
def test_an_index_in_a_bucket_is_built_and_searched_as_a_local_one(bucket, tmp_path, capsys):
  (tmp_path / "clip").mkdir()
  miniature.write_clip(tmp_path / "clip")
  write_videos(tmp_path / "v", 3)
  model = bucket.upload(tmp_path / "clip", "clip")
  printed = []
  for folder, source in ((f"{tmp_path}", tmp_path / "clip"), (bucket.url, model)):
    embed.main([f"--model={source}", f"--videos={tmp_path / 'v'}", f"--out={folder}/i.safetensors"])
    capsys.readouterr()
    search.main([f"--index={folder}/i.safetensors", "a red square", f"--html={folder}/page.html"])
    printed.append([line for line in capsys.readouterr().out.splitlines() if "page.html" not in line])
  assert printed[0] == printed[1] and bucket.read("page.html") == (tmp_path / "page.html").read_bytes()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--index=none.safetensors", "red"], r"'none\.safetensors': no such file; python -m clipvip_jax\.embed"),
    (["--index=none.safetensors", " "], "a QUERY is empty"),
    (["--index=none.safetensors", "red", "--top=0"], "--top=0 must be at least 1"),
    (["--index=none.safetensors", "red", "--html=none/page.html"], "--html=none/page.html: its folder does not exist"),
    (["red"], "arguments are required: --index"),
    (["--index=none.safetensors"], "the following arguments are required: QUERY, or --serve"),
    (["--index=none.safetensors", "red", "--where=year"], "--where='year' is not a condition"),
    (["--index=none.safetensors", "red", "--serve"], "takes queries and filters on its page; omit QUERY, --where and"),
    (["--index=none.safetensors", "--serve", "--where=a=b"], "takes queries and filters on its page"),
    (["--index=none.safetensors", "red", "--port=80"], "--host and --port need --serve"),
    (["--index=none.safetensors", "--serve", "--port=80"], r"'none\.safetensors': no such file"),
  ],
)
def test_wrong_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    search.main(options)
