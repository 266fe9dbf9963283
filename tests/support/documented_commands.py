"""Code of Markdown pages: commands, snippets of Python, and other blocks; and how commands run."""

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys

from project_paths import ROOT

PROGRAMS = ("python", "make", "pip", "tensorboard", "clipvip", "docker", "git", "uv", ".ci/run")
_PYTHON = re.compile(r"(import|from) \w")
# First lines of blocks that hold neither commands nor Python.
_OTHER = re.compile(r'\{"|FROM |utils < models')


def is_command(text):
  """Whether a line or an inline code span calls a program, after settings of environment variables."""
  words = text.split()
  while words and re.match(r"[A-Z_]+=", words[0]):
    words = words[1:]
  return bool(words) and words[0].removeprefix("./").partition("3.")[0] in PROGRAMS


def read_blocks(text):
  """Yields (language, lines) of fenced and indented blocks; the language of an indented block is ""."""
  lines = text.splitlines()
  number = 0
  while number < len(lines):
    end = number + 1
    if fence := re.match(r"```+(\w*)", lines[number]):
      while not lines[end].startswith("```"):
        end += 1
      yield fence[1], lines[number + 1 : end]
      end += 1
    elif lines[number].startswith("    ") and number and not lines[number - 1].strip():
      while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
      yield "", [line[4:] for line in lines[number:end] if line.strip()]
    number = end


def read_page(text):
  """Returns (commands, snippets, others) of a page.

  A command is one line: continuations are joined, comments removed. In a sentence, a command without a flag, path or
  make target is a mention. Others are the blocks of other languages, each a list of lines.
  """
  commands, snippets, others = [], [], []
  for language, lines in read_blocks(text):
    if language in ("mermaid", "json", "yaml", "dockerfile") or _OTHER.match(lines[0]):
      others.append(lines)
    elif language == "python" or _PYTHON.match(lines[0]):
      snippets.append("\n".join(lines))
    else:
      commands += re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
  prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
  spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
  for span in filter(is_command, spans):
    program, *words = re.sub(r" -m \S+", "", span, count=1).split()
    if words and (program == "make" or any(re.search(r"[=./\[]", word) for word in words)):
      commands.append(span)
  # The console command starts the package's modules.
  commands = [re.sub(r"^clipvip (?=[a-z])", "python -m clipvip_jax.", command) for command in commands]
  commands = [re.sub(r"^clipvip ", "python -m clipvip_jax.__main__ ", command) for command in commands]
  return [shlex.join(shlex.split(command, comments=True)) for command in commands], snippets, others


def start(words):
  """Runs the module of a command in this process, as `python -m` does."""
  module = importlib.import_module(words[2])
  assert hasattr(module, "main"), f"{words[2]} is no command"
  sys.argv = words[2:]
  return module.main(words[3:]) if inspect.signature(module.main).parameters else module.main()


def run(words, folder):
  """Runs a command in `folder`, the current one; training in a process of its own, since its flags are global."""
  if words[:2] == ["python", "-m"] and words[2] != "clipvip_jax.main":
    start(words)
  else:
    words = [sys.executable, *words[1:]] if words[0] == "python" else words
    cwd = ROOT if words[0] == "make" else folder
    done = subprocess.run(words, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  for word in words:
    if output := re.fullmatch(r"--(?:workdir|out|html|plot)=(.+)", word):
      assert (folder / output[1]).exists(), f"{word} was not written"
