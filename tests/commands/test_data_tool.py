"""data_tool: check, build, show and throughput on a small manifest."""

import dataclasses
import json
import re

import corpora
import pytest

from clipvip_jax import data_tool
from clipvip_jax.data.engine.corpus_config import BuildOptions
from clipvip_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  """Ten clips, of which one is missing and one is truncated."""
  folder = tmp_path_factory.mktemp("manifest")
  for number in range(9):
    corpora.write_video(folder / f"{number}.mp4", seed=number)
  (folder / "8.mp4").write_bytes((folder / "8.mp4").read_bytes()[:-300])
  rows = [{"video": f"{n}.mp4", "text": [f"<b>clip {n}</b>", "again"], "caption": f"frame {n}"} for n in range(10)]
  return corpora.write_lines(folder / "mine.jsonl", rows)


@pytest.fixture(scope="module")
def built(manifest, tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpora")
  data_tool.main(["build", str(manifest), f"--data_dir={folder}", "--fps=2", "--max_skipped=0.2", "--workers=1"])
  return folder


def test_check_lists_the_first_twenty_bad_lines(tmp_path, capsys):
  rows = [json.dumps({"video": f"{n}.mp4", "text": n}) if n % 3 else "{" for n in range(60)]
  (tmp_path / "m.jsonl").write_text("\n".join(rows))
  with pytest.raises(UserError, match=r"the annotations have at least 20 invalid lines; repair them"):
    data_tool.main(["check", str(tmp_path / "m.jsonl")])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 20 and "line 1: invalid JSON" in lines[0] and "line 20, text: a text must be" in lines[-1]
  (tmp_path / "m.jsonl").write_text(rows[1])
  with pytest.raises(UserError, match=r"line 1, text: a text must be a string, got the number 1; write \"1\""):
    data_tool.main(["check", str(tmp_path / "m.jsonl")])
  assert not capsys.readouterr().out


def test_check_reports_skipped_clips_and_writes_nothing(manifest, capsys):
  before = sorted(manifest.parent.iterdir())
  with pytest.raises(UserError, match=r"would skip 20\.0% of split 'train', more than 5\.0%; repair these files"):
    data_tool.main(["check", str(manifest), "--decode=-1"])
  printed = capsys.readouterr().out
  assert re.search(r"train +10 +1 +9 +1  10 descriptions, 10 caption", printed)
  assert "train: 9.mp4: missing" in printed and "train: 8.mp4: undecodable" in printed
  data_tool.main(["check", str(manifest), "--decode=0", "--max_skipped=0.1"])
  assert re.search(r"train +10 +1 +0 +0", capsys.readouterr().out)
  assert sorted(manifest.parent.iterdir()) == before


def test_build_derives_name_and_is_idempotent(manifest, built):
  folder = built / "video_manifest" / "default-fps_2" / "1.0.0"
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  assert (folder / "skipped.tsv").read_text().count("\n") == 2
  data_tool.main(["build", str(manifest), f"--data_dir={built}", "--fps=2"])
  assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_build_rejects_other_annotations(manifest, built, tmp_path):
  other = corpora.write_lines(manifest.parent / "other.jsonl", [{"video": "0.mp4", "text": "another text"}])
  with pytest.raises(UserError, match=r"was built from other annotations .* --name=NAME"):
    data_tool.main(["build", str(other), f"--data_dir={built}", "--fps=2"])
  with pytest.raises(UserError, match="no such file"):
    data_tool.main(["build", str(tmp_path / "none.jsonl"), f"--data_dir={built}", "--fps=2"])


def test_add_captions_writes_an_edition_that_is_opened_by_its_name(built, tmp_path):
  rows = [{"header": {"model": "m"}}, *({"id": f"{n}.mp4", "caption": f"<i>caption {n}</i>"} for n in range(4))]
  captions = corpora.write_lines(tmp_path / "captions.jsonl", rows)
  corpus = ["video_manifest", f"--data_dir={built}"]
  data_tool.main(["add-captions", *corpus, "--config=default-fps_2", str(captions), "--name=captioned"])
  data_tool.main(["show", *corpus, "--config=captioned", f"--html={tmp_path}/page.html", "--count=100"])
  html = (tmp_path / "page.html").read_text()
  assert html.count("<figure") == 8 and html.count("<figcaption") == 8
  figure = html[html.index("<figure") : html.index("</figure>")]
  assert "data:image/jpeg" in figure and "&lt;i&gt;caption 0&lt;/i&gt;" in figure
  assert "Generated captions by m" in html
  with pytest.raises(UserError, match="the following arguments are required: FILES"):
    data_tool.main(["add-captions", *corpus])
  with pytest.raises(UserError, match="unknown option --fps"):
    data_tool.main(["add-captions", *corpus, str(captions), "--fps=3"])


def test_show_writes_one_page_with_escaped_texts(built, tmp_path):
  page = tmp_path / "page.html"
  arguments = ["video_manifest", "--config=default-fps_2", f"--data_dir={built}", f"--html={page}", "--count=3"]
  data_tool.main(["show", *arguments, "--num_frames=4"])
  html = page.read_text()
  assert html.count('<section class="card">') == 3 and html.count("data:image/jpeg") == 3 * 5
  assert "&lt;b&gt;clip 0&lt;/b&gt; (words: 2)" in html and "<b>" not in html
  assert "10 expected, 8 found, 1 missing, 1 undecodable" in html and "2 frames a second" in html
  assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "")


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_throughput_prints_clips_per_second(built, capsys, pixels):
  arguments = ["video_manifest", "--config=default-fps_2", f"--data_dir={built}", "--batch_size=4", "--image_size=32"]
  data_tool.main(["throughput", *arguments, "--num_frames=2", "--workers=1", "--seconds=0.2", f"--pixels={pixels}"])
  assert re.search(r"[0-9.]+ clips/s", capsys.readouterr().out)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["check", "nothing"], "'nothing' is not a corpus in data/; choose one of: "),
    (["check", "table.csv"], r"'table\.csv' is neither a corpus in data/ nor a manifest: .* ends with \.jsonl"),
    (["build", "my/list.txt"], r"'my/list\.txt' is neither .*, one object a line"),
    (["show", "m.jsonl", "--html=x.html"], r"'m\.jsonl' is not a corpus; .* show video_manifest --config=NAME"),
    (["throughput", "my/m.jsonl"], r"'my/m\.jsonl' is not a corpus; .* throughput video_manifest --config=NAME"),
    (["check", "video_manifest"], "--raw_dir=FILE"),
    (["check", "video_manifest", "--config=x"], "use default, all_frames"),
    (["build", "m.jsonl", "--fsp=3"], "unknown option --fsp; fields that can be set: .*--fps"),
    (["build", "m.jsonl", "--fps=fast"], "--fps=fast: expected a number"),
    (["build", "m.jsonl", "--check_sizes=maybe"], "--check_sizes=maybe: expected true or false"),
    (["build", "m.jsonl", "--fps=-1"], "fps=-1"),
    (["build", "m.jsonl", "--workers=0"], "--workers=0 is out of range; use at least 1"),
    (["build", "m.jsonl", "--workers", "two"], "--workers"),
    (["build", "m.jsonl", "--raw_dir=n.jsonl"], "--raw_dir=n.jsonl does not apply to the manifest m.jsonl; remove it"),
    (["build", "m.jsonl", "more"], "unexpected argument 'more'"),
    (["build", "m.jsonl", "--beam_options=a=b"], "needs --runner; .* use --workers=N"),
    (["build", "m.jsonl"], "m.jsonl: no such file"),
    (["build", "m.jsonl", "--name=../x"], "invalid configuration name .*; use at most 100 letters"),
    (["build", "m.jsonl", "--decoder=.x:y"], "decoder='.x:y' is unknown"),
    (["build", "m.jsonl", "--decode_timeout=nan"], "decode_timeout=nan is out of range; use seconds above 0"),
    (["show", "video_manifest", "--html=x.html", "--seed=-1"], "--seed=-1 is out of range; use 0 to"),
    (["throughput", "video_manifest", "--image_size=100000"], "--image_size=100000 is out of range; use 1 to 4096"),
    (["show", "video_manifest", "--html=x.html", "--fps=3"], "unknown option --fps"),
    (["show", "video_manifest"], "--html"),
    (["show", "video_manifest", "--html=x.html", "--count=0"], "--count=0"),
    (["throughput", "video_manifest", "--num_frames=0"], "--num_frames=0"),
    (
      ["show", "msrvtt", "--data_dir=hdfs://a/b", "--html=x.html"],
      "--data_dir=hdfs://a/b is neither a local path nor gs://",
    ),
    (["mend", "x"], "invalid choice: 'mend'"),
    ([], "required"),
  ],
)
def test_rejects_invalid_options_in_one_line(tmp_path, monkeypatch, arguments, words):
  monkeypatch.chdir(tmp_path)
  if arguments and arguments[0] != "mend" and not any("://" in argument for argument in arguments):
    arguments = [*arguments[:2], f"--data_dir={tmp_path}", *arguments[2:]]
  with pytest.raises(UserError, match=words) as refused:
    data_tool.main(arguments)
  assert "\n" not in str(refused.value)
  assert not list(tmp_path.rglob("*.array_record"))


@pytest.mark.parametrize("command", ["check", "build"])
def test_help_lists_all_build_options(command, capsys):
  with pytest.raises(SystemExit):
    data_tool.main([command, "--help"])
  text = capsys.readouterr().out
  assert all(f"--{field.name}" in text for field in dataclasses.fields(BuildOptions))
