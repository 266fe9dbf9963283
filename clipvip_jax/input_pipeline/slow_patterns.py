"""Regular expressions of a tokenizer.json that may take exponential time."""

import json
import re


def find_slow_pattern(content: str) -> str:
  """Returns a regular expression of a tokenizer.json that repeats a group with repetitions or alternatives; "" if none.

  Such patterns, as (a+)+$, may backtrack exponentially. Those of published tokenizers repeat character classes only.
  """
  for pattern in re.findall(r'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', content):
    try:
      text = json.loads(pattern)
    except ValueError:  # which the package reports
      continue
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", text, flags=re.DOTALL)  # no escapes, no character classes
    while group := re.search(r"\(([^()]*)\)([*+]|\{\d+,\})?", plain):  # an innermost group
      varies = re.search(r"[*+|{]", group[1])
      if varies and group[2]:
        return text
      plain = f"{plain[: group.start()]}{'x+' if varies else 'x'}{group[2] or ''}{plain[group.end() :]}"
  return ""
