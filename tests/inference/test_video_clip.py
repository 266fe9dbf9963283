"""Names of clips: read back as the clip, whatever the path looks like."""

import pytest

from clipvip_jax.inference.video_clip import VideoClip


@pytest.mark.parametrize(
  ("clip", "name"),
  [
    (VideoClip("a/v.mp4"), "a/v.mp4"),
    (VideoClip("v.mp4", 0.0, 10.0), "v.mp4@0-10"),
    (VideoClip("v.mp4", 1.25), "v.mp4@1.25-"),
    (VideoClip("v@2-3", 10.5, 20.0), "v@2-3@10.5-20"),
    (VideoClip("frames@0-10"), "frames@0-10@-"),
    (VideoClip("x@-"), "x@-@-"),
    (VideoClip("line\n@1-2", 0.0, 5.0), "line\n@1-2@0-5"),
    (VideoClip("v@1.2.3-4"), "v@1.2.3-4@-"),
  ],
)
def test_names_are_read_back(clip, name):
  assert clip.name == name and VideoClip.from_name(name) == clip


@pytest.mark.parametrize("name", ["", "v.mp4", "@0-10", "v@1.2.3-4", "v@a-b", "v@-1-2", "v@1-1e999", "v@1e999-"])
def test_other_texts_are_paths(name):
  assert VideoClip.from_name(name) == VideoClip(name)
