"""Reading of the Dockerfile: stages, their instructions, and the shell commands that build a target."""

import re

from project_paths import ROOT


def instructions():
  """Yields (keyword, arguments) of every instruction, with continued lines joined."""
  lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
  text = "\n".join(line for line in lines if not line.startswith("#"))
  for line in text.replace("\\\n", " ").splitlines():
    if line.strip():
      keyword, _, arguments = line.partition(" ")
      yield keyword, " ".join(arguments.split())


def stages():
  """Returns {stage: (its base, [(keyword, arguments), ...])} in order."""
  result = {}
  for keyword, arguments in instructions():
    if keyword == "FROM":
      base, _, name = arguments.split()
      result[name] = (base, [])
    else:
      result[name][1].append((keyword, arguments))
  return result


def effective(target):
  """Returns all instructions of a target, those of the stages that it extends first."""
  base, own = stages()[target]
  return [*(effective(base) if base in stages() else []), *own]


def last(target, keyword):
  """Returns the arguments of the last instruction of a kind, which is the one in force."""
  return [arguments for kind, arguments in effective(target) if kind == keyword][-1]


def install_commands(target):
  """Returns the shell commands that install the packages of a target, in order, with those of stages that it mounts."""
  commands = []
  for keyword, arguments in effective(target):
    if keyword == "RUN":
      for source in re.findall(r"--mount=\S*from=(\w+)", arguments):
        commands += [command for command in install_commands(source) if command not in commands]
      command = re.sub(r"--mount=\S+ ", "", arguments)
      commands += [command] if re.search(r"\b(pip|uv)\b", command) else []
  return commands
