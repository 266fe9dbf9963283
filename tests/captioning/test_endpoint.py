"""The engine of endpoints."""

from caption_endpoint import MODEL, CaptionEndpoint, known_captions, picture

from clipvip_jax.captioning.endpoint import EndpointEngine, EndpointSettings


def test_the_header_has_what_determines_the_captions():
  settings = EndpointSettings(urls=("http://a/v1",), model="m", prompt="What?", parameters={"max_tokens": 5}, key="k")
  assert EndpointEngine(settings).describe() == {
    "engine": "endpoint", "model": "m", "prompt": "What?", "parameters": {"max_tokens": 5}
  }  # fmt: skip


def test_the_model_may_have_another_name_in_answers():
  with CaptionEndpoint(known_captions(1)) as server:
    settings = EndpointSettings(urls=(server.url,), model="alias", prompt="", answers_as=MODEL)
    answers = {}
    EndpointEngine(settings).run(iter([(0, picture(0))]), answers.__setitem__)
  assert answers[0].text == known_captions(1)[picture(0)]
