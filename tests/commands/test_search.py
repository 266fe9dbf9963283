"""The command search: from an index to lines and a page, and wrong options."""

import miniature
import pytest
from videos import write_videos

from clipvip_jax import embed, search
from clipvip_jax.inference import video_index
from clipvip_jax.utils.errors import UserError


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


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--index=none.safetensors", "red"], r"'none\.safetensors': no such file; python -m clipvip_jax\.embed"),
    (["--index=none.safetensors", " "], "a QUERY is empty"),
    (["--index=none.safetensors", "red", "--top=0"], "--top=0 must be at least 1"),
    (["--index=none.safetensors", "red", "--html=none/page.html"], "--html=none/page.html: its folder does not exist"),
    (["red"], "arguments are required: --index"),
  ],
)
def test_wrong_options_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    search.main(options)
