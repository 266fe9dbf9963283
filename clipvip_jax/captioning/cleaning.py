"""Rules that turn a model's answer into a caption, or leave it out.

A caption describes the frame itself: without "The image shows", quotation marks and markup, and no longer than the text
tower reads. Refusals, empty answers and endless repeats are left out. Every change is named, so that it can be counted.
"""

import dataclasses
import re
from collections.abc import Callable

from clipvip_jax.data.engine.items import clean_text
from clipvip_jax.input_pipeline.tokenizer import Tokenizer

# Reasons for which a clip has no caption.
EMPTY, REFUSAL, REPEATS = "empty", "refusal", "endless_repeats"
# Names of changes.
REASONING, MARKUP, PREFIX, QUOTES, CUT = "reasoning", "markup", "prefix", "quotes", "cut"

_MAX_CHARACTERS = 4000  # of an answer that is examined
# Templates of many models write the first tag into the prompt, so that an answer begins within the reasoning.
_THINKING = re.compile(
  r"[<◁](think|thinking)[>▷].*?([<◁]/\1[>▷]|\Z)|\A(?:(?![<◁]think).)*[<◁]/think(?:ing)?[>▷]", re.DOTALL | re.IGNORECASE
)
_MARKUP = re.compile(r"```\w*|\*\*|__|^#+\s+|^[-*]\s+|<\|[^|<>]{1,40}\|>|</?s>", re.MULTILINE)
_PICTURE = r"(?:image|picture|photo|photograph|frame|video frame|still|screenshot|scene)"
_VERB = r"(?:shows|depicts|displays|features|captures|presents|portrays|is of|is showing|is depicting)"
_PREFIX = re.compile(
  "|".join(
    (
      r"(?:sure|certainly|of course|absolutely|okay|ok)[,!.:]\s*",
      r"here(?:['’]s| is)\s+(?:a|the|my|your)[^:.\n]{0,60}:\s*",  # noqa: RUF001  # as models write it
      r"(?:image |short |brief )?(?:caption|description|answer|assistant)\s*:\s*",
      rf"in (?:the|this) {_PICTURE},?\s+(?:(?:we|you|one) can see\s+)?",
      rf"(?:the|this) {_PICTURE} {_VERB}\s+(?:that\s+)?",
      rf"this is an? {_PICTURE} (?:of|showing|depicting|that shows)\s+",
      rf"an? {_PICTURE} (?:of|showing|depicting|that shows)\s+",
    )
  ),
  re.IGNORECASE,
)
_PASSES = 3  # a prefix may follow another: "Sure! Here is a caption: The image shows"
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("`", "`"), ("*", "*"))  # noqa: RUF001
_REFUSAL = re.compile(
  r"i['’]?\s?a?m (?:so |very )?(?:sorry|unable|not able)\b|sorry[,.!]|i apologi[sz]e\b|as an ai\b"  # noqa: RUF001
  r"|i (?:can(?:not|['’]?t)|won['’]?t|do(?: not|n['’]?t) (?:have|see))\b"  # noqa: RUF001
  r"|unfortunately,? (?:i|the image)\b|(?:there is )?no (?:image|picture|photo)\b|unable to\b"
  r"|cannot (?:describe|assist)|please (?:provide|upload|share|attach)\b",
  re.IGNORECASE,
)
_MAX_PERIOD = 12  # words, or characters, of the unit of a repeat
_MIN_REPEATS = 4  # of words, at the end of an answer
_REPEATED_CHARACTERS = re.compile(rf"(\S{{1,{_MAX_PERIOD}}}?)\1{{11,}}")
# Ends of sentences, clauses and words, in the order of preference.
_ENDS = (re.compile(r"[.!?](?=\s|$)|[。！？]"), re.compile(r"[,;:](?=\s|$)|[，；：、]"), re.compile(r"\S(?=\s|$)"))  # noqa: RUF001


@dataclasses.dataclass(frozen=True)
class Cleaned:
  """A caption.

  Attributes:
    caption: its text; "" if it is left out.
    left_out: why; "" if it is not.
    changes: what was removed, by the names above.
  """

  caption: str
  left_out: str = ""
  changes: tuple[str, ...] = ()


def fits_in(tokenizer: Tokenizer, length: int) -> Callable[[str], bool]:
  """Returns whether the text tower reads a text to its end.

  Args:
    tokenizer: of the text tower.
    length: tokens that it reads, with start and end.
  """
  return lambda text: int(tokenizer([text], length + 1)[0].argmax()) < length  # the end has the largest id


def clean_answer(answer: str, fits: Callable[[str], bool], *, incomplete: bool = False) -> Cleaned:
  """Applies all rules to an answer.

  Args:
    answer: of a model, untrusted.
    fits: see `fits_in`.
    incomplete: whether the model was stopped at its limit of tokens, so that the last sentence has no end.
  """
  text, changes = answer, []
  for name, pattern in ((REASONING, _THINKING), (MARKUP, _MARKUP)):
    text, count = pattern.subn("", text)
    text = text[:_MAX_CHARACTERS]
    changes += [name] if count else []
  text = " ".join(clean_text(text, "").split())
  if (shortened := _remove_prefix(text)) != text:
    text = shortened
    changes.append(PREFIX)
  if _REFUSAL.match(text):
    return Cleaned("", REFUSAL, tuple(changes))
  if (unquoted := _remove_quotes(text)) != text:
    text = _remove_prefix(unquoted)
    changes.append(QUOTES)
  if _is_endless(text):
    return Cleaned("", REPEATS, tuple(changes))
  if not any(map(str.isalnum, text)):
    return Cleaned("", EMPTY, tuple(changes))
  if (cut := _cut(text, fits, incomplete)) != text:
    changes.append(CUT)
  return Cleaned(cut, "" if cut else EMPTY, tuple(changes))


def _remove_prefix(text: str) -> str:
  for _ in range(_PASSES):
    match = _PREFIX.match(text)
    if match is None or match.end() == len(text):
      break
    text = text[match.end() :]
  return text


def _remove_quotes(text: str) -> str:
  """Removes quotation marks around the text; keeps those of several quotations in it."""
  for first, last in _QUOTES:
    inner = text[1:-1]
    if len(text) > 1 and text[0] == first and text[-1] == last and first not in inner and last not in inner:
      return inner.strip()
  return text


def _is_endless(text: str) -> bool:
  """Returns whether half of a text or more is a phrase, repeated until the end."""
  if _REPEATED_CHARACTERS.search(text):
    return True
  words = text.lower().split()
  return any(_ends_with_repeats(part) for part in (words, words[:-1]))  # the last word may have been cut


def _ends_with_repeats(words: list[str]) -> bool:
  for period in range(1, _MAX_PERIOD + 1):
    length = period
    while length < len(words) and words[-1 - length] == words[-1 - length + period]:
      length += 1
    if length >= _MIN_REPEATS * period and 2 * length >= len(words):
      return True
  return False


def _cut(text: str, fits: Callable[[str], bool], incomplete: bool) -> str:
  """Cuts a text that does not fit: at the end of a sentence, else of a clause, else of a word."""
  if fits(text) and not incomplete:
    return text
  for ends in _ENDS:
    kept = ""
    for match in ends.finditer(text):
      if not fits(text[: match.end()]):
        break
      kept = text[: match.end()]
    if kept:
      return kept.rstrip(",;: ")
  return ""
