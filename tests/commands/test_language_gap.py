"""The command language_gap: from two files to the printed gaps and the plot."""

import re

import numpy as np
import pytest

from clipvip_jax import language_gap
from clipvip_jax.inference import load_model
from clipvip_jax.utils.errors import UserError

WORDS = ("red", "green", "blue", "so", "well", "you")


class WordModel:
  """Embeds a text by the words that it contains."""

  def embed_texts(self, texts):
    noise = np.random.default_rng(0).normal(0, 0.05, (len(texts), len(WORDS)))
    return noise + np.array([[float(word in text.split()) for word in WORDS] for text in texts])


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  for name, words in (("captions", WORDS[:3]), ("speech", WORDS[3:])):
    lines = [" ".join(["the", *rng.choice(words, 2)]) for _ in range(300)]
    (tmp_path / f"{name}.txt").write_text("\n".join(lines))
  return [str(tmp_path / "captions.txt"), str(tmp_path / "speech.txt")]


def test_prints_the_gap_and_those_of_halves_and_plots(files, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(load_model, "load", lambda source: WordModel())
  language_gap.main([*files, f"--plot={tmp_path / 'gap.png'}"])
  printed = capsys.readouterr().out
  assert float(re.search(r"(\S+) +300  \S+captions\.txt against \S+speech\.txt", printed)[1]) > 0.9
  halves = re.findall(r"(\S+) +150  halves of (\S+)", printed)
  assert [name for _, name in halves] == files and all(float(nmi) < 0.05 for nmi, _ in halves)
  assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_options_are_refused_before_the_model_is_loaded(files, monkeypatch):
  monkeypatch.setattr(load_model, "load", lambda source: pytest.fail("loaded"))
  with pytest.raises(UserError, match="--seed=-1 must be at least 0"):
    language_gap.main([*files, "--seed=-1"])
  with pytest.raises(UserError, match=r"--plot=nowhere/gap\.png: its folder does not exist"):
    language_gap.main([*files, "--plot=nowhere/gap.png"])
  with pytest.raises(UserError, match=r"none\.txt: no such file"):
    language_gap.main([files[0], "none.txt"])
