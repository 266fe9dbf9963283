"""The compare command: printed lines, the page, and rejected input."""

import copy
import json

import browser
import numpy as np
import pytest
from page import Page

from clipvip_jax import compare
from clipvip_jax.evaluation import retrieval
from clipvip_jax.reporting.results_table import METRICS, MISSING
from clipvip_jax.utils.errors import UserError


def metrics(size, seed, shift=2.0):
  similarity = np.random.default_rng(seed).normal(size=(size, size)) + shift * np.eye(size)
  twins = retrieval.twin_accuracy(similarity, np.arange(size) ^ 1)
  return {
    "size": size,
    "queries": size,
    "expected": size,
    "missing": 0,
    **retrieval.evaluate(similarity),
    "twins": twins,
  }


def results(seed, shift=2.0):
  return {
    "splits": {"test": metrics(64, seed, shift), "test_unseen": metrics(32, seed, shift)},
    "best_step": 900,
    "num_params": 1_234_567,
    "corpus": {"name": "shapes/demo/1.0.0", "settings": {"frames": 8}, "coverage": {"test": {"found": seed}}},
    "config": {"loss": "vs", "seed": seed, "optimizer": {"learning_rate": 1e-3}, "evaluate": {"query": "description"}},
    "versions": {"jax": "0.10.2"},
  }


def history(seed):
  train = [{"kind": "train", "step": step, "loss": 5 / step + seed} for step in range(1, 101)]
  return [*train, *({"kind": "eval", "step": s, "split": "validation", "metrics": metrics(16, s)} for s in (50, 100))]


def write(folder, results, history=()):
  folder.mkdir()
  (folder / "results.json").write_text(json.dumps(results, sort_keys=True), encoding="utf-8")
  if history:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
  return folder


@pytest.fixture
def runs(tmp_path):
  """Two runs that differ in seed and strength."""
  return write(tmp_path / "a", results(0), history(0)), write(tmp_path / "b", results(1, 3.0), history(1))


def compared(tmp_path, capsys, *runs):
  """(what is printed, the page)."""
  compare.main([*map(str, runs), f"--html={tmp_path / 'compare.html'}"])
  return capsys.readouterr().out, (tmp_path / "compare.html").read_text(encoding="utf-8")


def test_prints_and_shows_every_metric_with_its_difference(tmp_path, capsys, runs):
  printed, source = compared(tmp_path, capsys, *runs)
  page = Page(source)
  a, b = results(0)["splits"], results(1, 3.0)["splits"]
  for split in a:
    for kind in ("plain", "dsl"):
      for direction in ("text_to_video", "video_to_text"):
        a_row, b_row = a[split][kind][direction], b[split][kind][direction]
        scales = [100, 100, 100, 1, 1]
        rows = [[scale * row[name] for name, scale in zip(METRICS, scales, strict=True)] for row in (a_row, b_row)]
        shown = [f"{x:,.1f}" for x in rows[0]], [f"{x:,.1f}" for x in rows[1]]
        signed = [f"{y - x:+,.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0") for x, y in zip(*rows, strict=True)]
        expected = ["A", *shown[0], "B", *shown[1], "B \N{MINUS SIGN} A", *signed]
        assert any(page.texts[i : i + len(expected)] == expected for i in range(len(page.texts))), expected
        for cells in (*shown, signed):
          assert any(line.split()[-5:] == cells for line in printed.splitlines()), cells
    twins_a, twins_b = (100 * x[split]["twins"]["accuracy"] for x in (a, b))
    difference = f"{twins_b - twins_a:+.1f}" if round(twins_b - twins_a, 1) else "0.0"
    assert f"Twin accuracy: A {twins_a:.1f}, B {twins_b:.1f}, B - A {difference}" in printed
  assert "These results may not be comparable" not in source and "warning" not in printed


def test_runs_in_a_bucket_are_compared_as_local_ones(bucket, tmp_path, capsys, runs):
  printed, page = compared(tmp_path, capsys, *runs)
  a, b = (bucket.upload(run, run.name) for run in runs)
  compare.main([a, b, f"--html={bucket / 'pages/compare.html'}"])
  assert capsys.readouterr().out == printed.replace(str(runs[0]), a).replace(str(runs[1]), b)
  assert bucket.read("pages/compare.html").decode() == page.replace(str(runs[0]), a).replace(str(runs[1]), b)
  with pytest.raises(UserError, match=rf"^{bucket.url}/none holds no results.json"):
    compare.main([a, bucket / "none"])


def test_curves_of_both_runs_are_in_one_chart(tmp_path, capsys, runs):
  labels = [label for label in Page(compared(tmp_path, capsys, *runs)[1]).values("aria-label") if "at step" in label]
  assert len(labels) == 2
  assert labels[0].startswith("Training loss (smoothed, over optimizer steps): A from 5 at step 1 to ")
  assert "; B from 6 at step 1 to " in labels[0] and labels[0].endswith("at step 100")
  recalls = [f"{100 * metrics(16, s)['plain']['text_to_video']['R@1']:.4g} at step {s}" for s in (50, 100)]
  curve = f"from {recalls[0]} to {recalls[1]}"
  assert labels[1] == f"Text-to-video R@1 (validation, percent, over optimizer steps): A {curve}; B {curve}"


def test_differing_configuration_fields_are_listed(tmp_path, capsys, runs):
  other = results(1)
  other["config"]["optimizer"] |= {"frozen": ["text/"]}
  other["config"]["loss"] = "vs_fc"
  b = write(tmp_path / "c", other, history(1))
  printed, source = compared(tmp_path, capsys, runs[0], b)
  page = Page(source)
  for row in (("loss", "vs", "vs_fc"), ("optimizer.frozen", MISSING, '["text/"]'), ("seed", "0", "1")):
    at = page.texts.index(row[0])
    assert page.texts[at : at + 3] == list(row)
    assert "  {}: {} | {}".format(*row) in printed.splitlines()
  assert "optimizer.learning_rate" not in source
  assert "A's loss is vs, B's is vs_fc: their values are not comparable" in " ".join(page.texts)
  assert "Versions: no differences" in printed and "No differences." in page.texts


def changed_results(change):
  changed = results(1)
  change(changed)
  return changed


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda r: r["splits"]["test"].update(size=1000), "split test: A has 64 clips, B has 1000"),
    (lambda r: r["splits"]["test"].update(missing=2), "split test: A has 0 missing clips, B has 2"),
    (lambda r: r["splits"]["test"].update(queries=65), "split test: A has 64 queries, B has 65"),
    (lambda r: r["corpus"].update(name="other/demo/1.0.0"), "name is shapes/demo/1.0.0 in A and other/demo/1.0.0 in B"),
    (lambda r: r["corpus"]["settings"].update(frames=4), "settings.frames is 8 in A and 4 in B"),
    (
      lambda r: r.update(evaluated={"name": "x"}),
      "evaluated on different corpora: name is shapes/demo/1.0.0 in A and x in B",
    ),
    (lambda r: r["config"]["evaluate"].update(query="title"), "evaluate.query is description in A and title in B"),
  ],
)
def test_warns_of_runs_that_are_not_comparable(tmp_path, capsys, runs, change, words):
  b = write(tmp_path / "c", changed_results(change))
  printed, source = compared(tmp_path, capsys, runs[0], b)
  assert any(line.startswith("warning: ") and line.endswith(words) for line in printed.splitlines())
  page = Page(source)
  assert "These results may not be comparable" in page.texts and any(text.endswith(words) for text in page.texts)


@pytest.mark.parametrize("started", [{"num_steps": 200}, {"num_steps": 100, "epochs": 3}])
def test_warns_of_results_from_before_an_extension(tmp_path, capsys, runs, started):
  extended = changed_results(lambda r: (r.update(step=100), r["config"].update(train={"num_steps": 100, "epochs": 2})))
  b = write(tmp_path / "c", extended)
  (b / "config.json").write_text(json.dumps({**extended["config"], "host": {"log_every": 7}}))
  assert "warning" not in compared(tmp_path, capsys, runs[0], b)[0]
  (b / "config.json").write_text(json.dumps({"train": started}))
  printed, source = compared(tmp_path, capsys, runs[0], b)
  words = "B was extended, and its results are of step 100, before: finish the run"
  assert f"warning: {words}" in printed.splitlines() and words in Page(source).texts


def test_names_splits_that_only_one_run_has(tmp_path, capsys, runs):
  b = write(tmp_path / "c", changed_results(lambda r: r["splits"].pop("test_unseen")))
  printed, source = compared(tmp_path, capsys, runs[0], b)
  assert "only A has the split test_unseen" in printed and "Not compared: only A has the split test_unseen." in source
  assert "warning" not in printed


@pytest.mark.parametrize(
  ("change", "note", "rows"),
  [
    (
      lambda r: r.update(config={"evaluate": {"query": "description", "batch_size": 8}}),
      "only A has fields of the configuration (3: loss, optimizer, seed)",
      [f"  evaluate.batch_size: {MISSING} | 8"],
    ),
    (
      lambda r: r.update(config={}),
      "only A has fields of the configuration (4: evaluate, loss, optimizer, seed)",
      [],
    ),
    (lambda r: r.pop("versions"), "only A has fields of the versions (1: jax)", []),
  ],
)
def test_what_an_evaluation_lacks_is_one_line(tmp_path, capsys, runs, change, note, rows):
  b = write(tmp_path / "c", changed_results(lambda r: (r["config"].update(seed=0), change(r))))
  printed, source = compared(tmp_path, capsys, runs[0], b)
  lines, page = printed.splitlines(), Page(source)
  assert note in lines and f"Not compared: {note}." in page.texts
  assert [line for line in lines if line.startswith("  ") and MISSING in line] == rows


def test_an_unknown_corpus_is_one_warning(tmp_path, capsys, runs):
  b = write(tmp_path / "c", changed_results(lambda r: r.pop("corpus")))
  printed = compared(tmp_path, capsys, runs[0], b)[0]
  assert [line for line in printed.splitlines() if "warning" in line] == ["warning: the corpus of B is unknown"]


def test_a_run_beside_an_evaluation_keeps_its_curves(tmp_path, capsys, runs):
  b = write(tmp_path / "c", changed_results(lambda r: r["config"].pop("loss")))
  labels = [label for label in Page(compared(tmp_path, capsys, runs[0], b)[1]).values("aria-label") if "step" in label]
  assert [label.split(":")[0] for label in labels] == [
    "Training loss (smoothed, over optimizer steps)",
    "Text-to-video R@1 (validation, percent, over optimizer steps)",
  ]
  assert not any("; B from" in label for label in labels)


def test_an_evaluation_has_no_curves(tmp_path, capsys):
  a, b = write(tmp_path / "a", results(0)), write(tmp_path / "b", results(1))
  source = compared(tmp_path, capsys, a, b)[1]
  assert "Training" not in Page(source).texts and "Results" in Page(source).texts


HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e\nwarning: lies"


def test_hostile_results_are_escaped_and_printed_safely(tmp_path, capsys, runs):
  def change(hostile):
    hostile["corpus"]["name"] = HOSTILE
    hostile["config"] |= {"loss": HOSTILE, HOSTILE: {"a": HOSTILE}}
    hostile["splits"][HOSTILE] = copy.deepcopy(hostile["splits"]["test"])
    hostile["best_step"] = HOSTILE

  rows = [{"kind": "eval", "step": 1, "split": HOSTILE, "metrics": metrics(16, 0)}]
  a, b = (write(tmp_path / name, changed_results(change), rows) for name in ("c", "d"))
  printed, source = compared(tmp_path, capsys, a, b)
  assert "<script" not in source
  assert not set(printed) & set("\x1b\u202e") and not any(line.startswith("warning") for line in printed.splitlines())
  compared(tmp_path, capsys, runs[0], b)
  document, console = browser.opened(tmp_path / "compare.html")
  assert not console and "<script" not in document


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "holds no results.json: finish its run with the command that started it"),
    ("{", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
    ("\udcff", "cannot be read"),
    ("[]", "is not a results file of this project: 'splits' is missing"),
    ('{"splits": []}', "'splits' is missing"),
    ('{"splits": {"test": {}}}', "split 'test' has no 'size'"),
    ('{"splits": {"test": {"size": 2}}, "config": [1]}', "'config' is not an object"),
    (
      '{"splits": {"other": {"size": 2}}}',
      "no split in common \\(.*a has test, test_unseen; .*c has other\\)",
    ),
    ('{"splits": {}}', "no split in common \\(.*c has none"),
    ('{"spread": {}}', "holds several models: name one of them, as .*model_0"),
  ],
)
def test_rejects_invalid_results(tmp_path, runs, content, message):
  (tmp_path / "c").mkdir()
  if content is not None:
    (tmp_path / "c" / "results.json").write_bytes(content.encode(errors="surrogateescape"))
  with pytest.raises(UserError, match=message):
    compare.main([str(runs[0]), str(tmp_path / "c")])


@pytest.mark.parametrize(
  "row",
  ["1", "[]", "{}", '{"step": "1", "kind": "train"}', '{"step": 1}', '{"step": 1, "kind": "eval"}', '{"step": null}'],
)
def test_corrupt_lines_of_a_history_are_named_and_skipped(tmp_path, runs, row, capsys, caplog):
  history = runs[1] / "metrics.jsonl"
  history.write_text(row + "\n" + history.read_text())
  compare.main([str(runs[0]), str(runs[1])])
  assert "Text to video" in capsys.readouterr().out
  assert f"{history}: 1 corrupt lines (1) are skipped; curves lack their steps" in caplog.text


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["a"], "the following arguments are required: RUN; see --help"),
    (["a", "b", "--html=nowhere/x.html"], "--html=nowhere/x.html: its folder does not exist"),
    (["a", "b", "c"], "unrecognized arguments: c"),
  ],
)
def test_rejects_invalid_flags(arguments, message):
  with pytest.raises(UserError, match=message):
    compare.main(arguments)
