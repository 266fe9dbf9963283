"""Commands and snippets of the documentation run, in small; those that cannot are listed, each with its reason.

All run in one folder in which earlier commands leave what later ones read, as for a reader; docs/own_videos.md has a
test of its own, tests/test_own_videos.py. What makes them small:

- SMALLER replaces the demo by the smoke variant, and recipes for full-size models by the same with the smoke model.
- tests/support/user_files.py writes what a user has: a miniature of MSR-VTT, a corpus of subtitles, a manifest.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys

import documented_commands
import numpy as np
import pytest
import user_files
from project_paths import ROOT

from clipvip_jax import convert

OWN_TEST = ROOT / "docs" / "own_videos.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {OWN_TEST})]
SMALLER = {
  "configs/post_pretrain.py:demo": "configs/post_pretrain.py:smoke",
  "=data_scale ": "=data_scale:smoke ",
  "=msrvtt:b32": "=small_msrvtt.py:b32",
  "moving_shapes/demo": "moving_shapes/smoke",
  "moving_shapes_videos/demo": "moving_shapes_videos/smoke",
  "--workers=8": "--workers=1",
}


@dataclasses.dataclass(eq=False)
class Run:
  """Commands that match `pattern` run, after `replaced`, with additional `flags`."""

  pattern: str
  flags: str = ""
  replaced: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Listed:
  """Commands that match `pattern` cannot run here. Their flags are parsed; of make, targets and prerequisites are."""

  pattern: str
  reason: str


OFFICIAL = "--check_sizes=false"  # a miniature does not have the official sizes
# In this order: later commands read what earlier ones wrote.
RULES = (
  Run(r"make help"),
  Run(r"\S+ -m clipvip_jax.__main__ --help"),
  Run(r"\S+ -m clipvip_jax.main --config=configs/post_pretrain.py:demo --workdir=build/demo "),
  Run(r"\S+ -m clipvip_jax.main --config=post_pretrain:smoke ", "--config.data.data_dir=build/datasets"),
  Run(r"\S+ -m clipvip_jax.embed --model=build/demo "),
  Listed(r"\S+ -m clipvip_jax.embed .*(--shard|--join)", "needs thousands of videos; tests/commands/test_embed.py"),
  Listed(r"\S+ -m clipvip_jax.search .*--serve", "serves until it is stopped; tests/commands/test_search.py"),
  Run(r"\S+ -m clipvip_jax.search --index=videos.safetensors "),
  Run(r"\S+ -m clipvip_jax.evaluate --model=build/demo "),
  Run(r"\S+ -m clipvip_jax.evaluate --embeddings=build/measured "),
  Run(r"\S+ -m clipvip_jax.compare "),
  Run(r"\S+ -m clipvip_jax.convert build/demo exports/demo"),
  Run(r"\S+ -m clipvip_jax.convert build/demo hf://OWNER/NAME", "--dry-run"),
  Run(
    r"\S+ -m clipvip_jax.language_gap moving_shapes/",
    "--data_dir=texts",
    {"=build/replication/vsc_fc/seed_0": "=build/demo"},
  ),
  Listed(
    r"\S+ -m clipvip_jax.data_tool .*=gs://my-bucket",
    "needs a bucket; tests/data/engine/test_corpus_mirror.py has emulated ones",
  ),
  Run(r"\S+ -m clipvip_jax.data_tool (check|build) msrvtt ", OFFICIAL),
  Run(r"\S+ -m clipvip_jax.data_tool show msrvtt "),
  Run(r"\S+ -m clipvip_jax.data_tool throughput msrvtt ", "--batch_size=4 --seconds=0.1"),
  Run(r"\S+ -m clipvip_jax.main --config=msrvtt:b32 --workdir=runs/msrvtt .*pretrain_clipvip_base_32.pt"),
  Run(
    r"\S+ -m clipvip_jax.main .*msrvtt:b32 .*init_from=runs/b32",
    "",
    {"runs/msrvtt": "runs/tuned", "=runs/b32": "=build/demo"},
  ),
  Run(r"\S+ -m clipvip_jax.convert runs/b32 exports/mixed ", "", {" runs/b32 ": " build/demo "}),
  Run(r"\S+ -m clipvip_jax.evaluate .*--dataset=msrvtt "),
  Run(r"\S+ -m clipvip_jax.classify --model=runs/msrvtt "),
  Run(r"\S+ -m clipvip_jax.language_gap hdvila:", "--model=build/demo"),
  Run(
    r"\S+ -m clipvip_jax.caption mine.jsonl ",
    "--engine=caption_endpoint:describe",
    {"--endpoint=http://localhost:8000/v1 --model=Qwen/Qwen2.5-VL-7B-Instruct": ""},
  ),
  Run(r"\S+ -m clipvip_jax.data_tool build mine.jsonl "),
  Run(
    r"\S+ -m clipvip_jax.caption video_manifest ",
    "--engine=caption_endpoint:describe",
    {"--endpoint=http://localhost:8000/v1 --model=Qwen/Qwen2.5-VL-7B-Instruct": ""},
  ),
  Run(r"\S+ -m clipvip_jax.data_tool add-captions "),
  Run(r"\S+ -m clipvip_jax.data_tool show video_manifest "),
  Run(r"\S+ -m clipvip_jax.subtitle talks/ --out=talks.jsonl --min"),
  Run(r"\S+ -m clipvip_jax.data_tool build talks.jsonl "),
  Listed(r"\S+ -m clipvip_jax.subtitle .*--endpoint", "needs an endpoint; tests/commands/test_subtitle.py has one"),
  Run(r"\S+ -m clipvip_jax.data_tool check video_shards ", "", {"{000..999}": "train/{000..001}"}),
  Run(r"\S+ -m clipvip_jax.data_tool build video_shards ", "--workers=1"),
  Run(
    r"\S+ -m clipvip_jax.main .*--config.data.name=video_manifest",
    "--config.train.num_steps=2 --config.train.eval_every=2 --config.train.batch_size=8 --config.data.prepare=False",
    {"=post_pretrain ": "=post_pretrain:smoke "},
  ),
  Run(r"\S+ -m clipvip_jax.study --config=data_scale ", "--only=100%"),
  Listed(r"make ", "starts long runs, complete tests or installations"),
  Listed(r"\S+ -m benchmarks\.", "measures for minutes, or compares with PyTorch"),
  Listed(r"\S+ -m launch\.", "needs a cluster; tests/launch/test_launchers.py runs it with --dry-run"),
  Listed(r"\S+ -m clipvip_jax.preflight ", "compiles a full-size step for minutes; tests/commands/test_preflight.py"),
  Listed(r"\S+ -m clipvip_jax.main .*=hdvila ", "needs HD-VILA-100M and CLIP's weights; tests/test_configs.py"),
  Listed(
    r"\S+ -m clipvip_jax.main .*=gs://my-bucket", "needs a bucket; tests/training/test_bucket_runs.py has emulated ones"
  ),
  Listed(r"git grep ", "changes the project"),
  Listed(r"tensorboard ", "serves until it is stopped"),
  Listed(r"docker ", "needs Docker; tests/test_installation.py runs the steps of the image"),
  Listed(r"pip install ", "downloads packages; tests/test_installation.py installs the project"),
)


def pages():
  return {page: documented_commands.read_page(page.read_text(encoding="utf-8")) for page in PAGES}


def commands():
  """{command: page} of all pages, in the order of the pages."""
  found = {}
  for page, (page_commands, _, _) in pages().items():
    for command in page_commands:
      found.setdefault(command, str(page.relative_to(ROOT)))
  return found


def rule_of(command):
  return next((rule for rule in RULES if re.match(rule.pattern, command)), None)


def test_every_command_runs_here_or_is_listed_with_a_reason():
  missing = [f"{page}: {command}" for command, page in commands().items() if rule_of(command) is None]
  assert not missing, "add a rule to RULES in tests/test_documented_commands.py for:\n" + "\n".join(missing)


def test_every_rule_is_of_a_command():
  used = {rule_of(command) for command in commands()}
  assert [rule.pattern for rule in RULES if rule not in used] == []


def test_commands_quote_what_shells_interpret():
  """Zsh refuses a command with * or [ that matches no file; < and > redirect."""
  blocks = [lines for page in [*PAGES, OWN_TEST] for _, lines in documented_commands.read_blocks(page.read_text())]
  joined = [line for lines in blocks for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()]
  unquoted = [re.sub(r"'[^']*'|\"[^\"]*\"| #.*", "", line) for line in filter(documented_commands.is_command, joined)]
  assert len(unquoted) > 50
  assert [command for command in unquoted if re.search(r"[*?\[<>]", command)] == []


def test_commands_are_found_in_all_kinds_of_code():
  page = """Run `python -m a.b x=1`, `make all`, `make`, `a.b`, `clipvip embed --model=x`, or `python -m a.b`:

    python -m a.b --flag='x y' \\
      --other   # a comment
    FIELD=1 pip install c

```bash
tensorboard --logdir=x
```

```python
import d
```

- an item
    continued, no code
"""
  found, snippets, others = documented_commands.read_page(page)
  assert found == [
    "python -m a.b '--flag=x y' --other",
    "FIELD=1 pip install c",
    "tensorboard --logdir=x",
    "python -m a.b x=1",
    "make all",
    "python -m clipvip_jax.embed --model=x",
  ]
  assert snippets == ["import d"] and others == []


class Parsed(Exception):
  """The flags of a command were accepted."""


@pytest.fixture
def parse_only(monkeypatch):
  """Commands end with Parsed where they have parsed their flags."""
  original = argparse.ArgumentParser.parse_known_args

  def parse_known_args(*args, **kwargs):
    options, rest = original(*args, **kwargs)
    if rest:
      return options, rest  # an error of the caller, or of what it passes them to
    raise Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)


PARSE_MAIN = "import sys; from clipvip_jax import main; main.parse_flags(sys.argv)"


@pytest.mark.slow
def test_flags_of_commands_that_are_only_listed_are_accepted(parse_only, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["python"])
  for command in [command for command in commands() if isinstance(rule_of(command), Listed)]:
    words = shlex.split(command)
    if words[0] == "make":
      subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    elif words[:3] == ["python", "-m", "clipvip_jax.main"]:
      subprocess.run([sys.executable, "-c", PARSE_MAIN, *words[3:]], cwd=ROOT, check=True)
    elif words[:2] == ["python", "-m"] and "argparse" in inspect.getsource(importlib.import_module(words[2])):
      with pytest.raises(Parsed):
        documented_commands.start(words)


def shorten(command, rule):
  for old, new in {**SMALLER, **rule.replaced}.items():
    command = command.replace(old, new)
  return f"{command} {rule.flags}".strip()


def run_snippet(code, capsys):
  for old, new in SMALLER.items():
    code = code.replace(old, new)
  capsys.readouterr()
  exec(compile(code, "a snippet of the documentation", "exec"), {})
  return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.unoptimized
def test_documented_commands_run(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "argv", ["python"])
  user_files.write(tmp_path)
  by_rule = {rule: [command for command in commands() if rule_of(command) is rule] for rule in RULES}
  for rule in [rule for rule in RULES if isinstance(rule, Run)]:
    for command in dict.fromkeys(shorten(command, rule) for command in by_rule[rule]):
      try:
        documented_commands.run(shlex.split(command), tmp_path)
      except BaseException as error:
        error.add_note(f"in: {command}")
        raise
      if "--workdir=build/demo " in command:
        weights = tmp_path / "weights"
        weights.mkdir()
        shutil.copy(tmp_path / "build" / "demo" / "tokenizer.json", weights)
        convert.main(["build/demo", str(weights / "pretrain_clipvip_base_32.pt")])
  snippets = [code for _, page_snippets, _ in pages().values() for code in page_snippets]
  assert snippets
  printed = [run_snippet(code, capsys) for code in snippets]
  assert np.abs(float(printed[0].strip().strip("[]"))) <= 1  # the similarity of the README's first example
