"""Requests to endpoints: concurrency, rate, retries, and every fault by its name."""

import gzip
import socket
import ssl
import threading
import time
import types
import unittest.mock
from email.utils import formatdate

import aiohttp
import pytest
from caption_endpoint import MODEL, CaptionEndpoint, known_captions, picture

from clipvip_jax.captioning import pacing
from clipvip_jax.captioning.endpoint import EndpointEngine, EndpointSettings
from clipvip_jax.utils.errors import UserError


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
  monkeypatch.setattr(pacing, "_FIRST_DELAY", 0.001)


def run(urls, count, **settings):
  engine = EndpointEngine(EndpointSettings(urls=tuple(urls), model=MODEL, prompt="What?", **settings))
  answers = {}
  engine.run(iter((i, picture(i)) for i in range(count)), answers.__setitem__)
  return engine, answers


def test_all_frames_are_described_at_once_within_the_limit():
  captions = known_captions(400)
  with CaptionEndpoint(captions, at_once=200) as server:
    _, answers = run([server.url], 400, concurrency=200)
  assert {i: answer.text for i, answer in answers.items()} == {i: captions[picture(i)] for i in range(400)}
  assert server.most_at_once == 200
  assert server.counts == {"": 400}


def test_requests_keep_to_the_rate():
  with CaptionEndpoint(known_captions(12)) as server:
    start = time.monotonic()
    run([server.url], 12, requests_per_minute=60 / 0.03)
  assert server.times[-1] - start >= 11 * 0.03


@pytest.mark.parametrize(
  ("fault", "name"),
  [
    ("429", "HTTP 429"),
    ("500", "HTTP 500"),
    ("503", "HTTP 503"),
    ("garbage", "garbage"),
    ("endless", "garbage"),
    ("drop", "dropped connection"),
    ("hang", "timeout"),
  ],
)
def test_faults_are_counted_by_name_and_repeated(fault, name):
  # Those that hang do so at once: their timeout, which all others must keep, may be long.
  with CaptionEndpoint(known_captions(6), fault=lambda number, _: fault if number < 3 else "") as server:
    engine, answers = run([server.url], 6, concurrency=3, timeout=4.0 if fault == "hang" else 60.0)
  assert {i: answer.text for i, answer in answers.items()} == {i: known_captions(6)[picture(i)] for i in range(6)}
  assert engine.faults == {name: 3} and server.counts == {fault: 3, "": 6}


@pytest.mark.parametrize("value", ["0.4", "date"])
def test_requests_wait_as_long_as_the_endpoint_asks(value):
  with CaptionEndpoint(known_captions(1), fault=lambda number, _: "" if number else "429") as server:
    server.retry_after = lambda: formatdate(time.time() + 2, usegmt=True) if value == "date" else value
    run([server.url], 1)
  first, second = server.times
  assert 0.4 <= second - first < 30


def test_bytes_that_are_not_http_are_garbage():
  with socket.create_server(("127.0.0.1", 0)) as listener:

    def answer():
      connection, _ = listener.accept()
      with connection:
        connection.recv(1 << 16)
        connection.sendall(b"\x15\x03\x01 not HTTP\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    engine, answers = run([f"http://127.0.0.1:{listener.getsockname()[1]}/v1"], 1, retries=0)
  assert answers[0].failure == "failed" and engine.faults == {"garbage": 1}


def test_an_answer_that_unpacks_to_much_more_is_garbage():
  packed = gzip.compress(b" " * (64 << 20))
  with CaptionEndpoint(known_captions(1), fault=lambda *_: packed) as server:
    engine, answers = run([server.url], 1, retries=0)
  assert answers[0].failure == "failed" and engine.faults == {"garbage": 1}


def test_a_redirect_is_not_followed_with_the_key():
  with (
    CaptionEndpoint(known_captions(1)) as other,
    CaptionEndpoint({}, fault=lambda *_: other.url) as server,
    pytest.raises(UserError, match=rf"307 \({other.url}/chat/completions\); it redirects: pass its own address"),
  ):
    run([server.url], 1, key="top-secret")
  assert not other.counts


def test_the_proxy_of_the_environment_is_used_and_passwords_of_netrc_are_not(monkeypatch, tmp_path):
  (tmp_path / "netrc").write_text("machine captions.example login me password s3cr3t\n")
  monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
  with CaptionEndpoint(known_captions(2)) as proxy:
    monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _, answers = run(["http://captions.example/v1"], 1)
    assert answers[0].text and proxy.authorization is None
    proxied = proxy.counts.total()
    with CaptionEndpoint(known_captions(1)) as server:
      run([server.url], 1)
    assert server.counts.total() == proxied == proxy.counts.total() == 1


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_proxy_need_not_have_a_scheme(monkeypatch, scheme):
  monkeypatch.delenv("no_proxy", raising=False)
  with CaptionEndpoint(known_captions(1)) as proxy:
    monkeypatch.setenv("http_proxy", scheme + proxy.url.removeprefix("http://").removesuffix("/v1"))
    assert run(["http://captions.example/v1"], 1)[1][0].text


def test_a_socks_proxy_is_refused_without_its_password(monkeypatch):
  monkeypatch.delenv("no_proxy", raising=False)
  monkeypatch.setenv("all_proxy", "socks5://me:s3cr3t@127.0.0.1:1")
  with pytest.raises(UserError, match="not an HTTP proxy; set http_proxy") as caught:
    run(["http://captions.example/v1"], 1)
  assert "s3cr3t" not in str(caught.value)


def test_a_frame_whose_attempts_all_fail_has_no_answer():
  with CaptionEndpoint(known_captions(3), fault=lambda _, image: "500" if image == picture(1) else "") as server:
    engine, answers = run([server.url], 3, retries=2)
  assert [answers[i].failure for i in range(3)] == ["", "failed", ""]
  assert "HTTP 500 (no, says 500" in answers[1].detail
  assert engine.faults == {"HTTP 500": 3}


def test_a_refused_image_is_not_repeated():
  with CaptionEndpoint(known_captions(3), fault=lambda _, image: "400" if image == picture(1) else "") as server:
    engine, answers = run([server.url], 3)
  assert [answers[i].failure for i in range(3)] == ["", "refused_image", ""]
  assert server.counts["400"] == 1 and not engine.faults


@pytest.mark.parametrize(
  ("fault", "words"), [("model", "with the model 'another-model'"), ("401", "key"), ("404", "path"), ("407", "proxy")]
)
def test_what_fails_for_every_frame_ends_the_run(fault, words):
  with (
    CaptionEndpoint(known_captions(50), fault=lambda number, _: fault if number >= 7 else "") as server,
    pytest.raises(UserError, match=rf"http://127.0.0.1:\d+/v1 answered .*{words}"),
  ):
    run([server.url], 50, concurrency=4)
  assert server.counts.total() < 50


def test_a_server_that_ends_is_replaced_by_another(monkeypatch):
  with socket.socket() as closed, CaptionEndpoint(known_captions(8)) as server:
    closed.bind(("127.0.0.1", 0))
    gone = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    engine, answers = run([gone, server.url], 8)
  assert not any(answer.failure for answer in answers.values()) and len(answers) == 8
  assert engine.faults == {"no connection": 4}


def test_the_key_is_sent_and_nowhere_else(caplog):
  with CaptionEndpoint(known_captions(2), fault=lambda number, _: "500") as server:
    engine, answers = run([server.url], 2, key="top-secret", key_variable="MY_KEY", retries=1)
    assert server.authorization == "Bearer top-secret"
    server.fault = lambda number, _: "401"
    with pytest.raises(UserError, match="set the environment variable MY_KEY") as caught:
      run([server.url], 2, key="top-secret", key_variable="MY_KEY")
  seen = [
    caught.value,
    answers,
    engine.describe(),
    caplog.text,
    EndpointSettings(urls=(), model="", prompt="", key="top-secret"),
  ]
  assert "top-secret" not in repr(seen) + str(caught.value)


def test_an_endpoint_that_is_not_there_is_found_before_frames_are_read(monkeypatch):
  def check(url, **settings):
    EndpointEngine(EndpointSettings(urls=(url,), model=MODEL, prompt="", **settings)).check()

  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    with pytest.raises(UserError, match=r"no connection to --endpoint=http://127.0.0.1:\d+/v1 .*start the server"):
      check(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
  with CaptionEndpoint({}) as server:
    check(server.url)
    check(server.url + "/no/such/path")  # not every endpoint lists its models
    with pytest.raises(UserError, match="the address of a server without a certificate begins with http://"):
      check(server.url.replace("http:", "https:"))


def test_an_unknown_certificate_is_named_with_what_makes_it_known(monkeypatch):
  refused = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate " + "x" * 200)
  refused.verify_message = "self-signed certificate"
  error = aiohttp.ClientConnectorCertificateError(types.SimpleNamespace(host="h", port=1, is_ssl=True), refused)
  monkeypatch.setattr(aiohttp.ClientSession, "get", unittest.mock.Mock(side_effect=error))
  with pytest.raises(UserError, match=r"h/v1 \(self-signed certificate\); if you trust .* SSL_CERT_FILE"):
    EndpointEngine(EndpointSettings(urls=("https://h/v1",), model=MODEL, prompt="")).check()


def test_the_first_error_cancels_the_others(monkeypatch):
  with CaptionEndpoint(known_captions(40), latency=0.05) as server:
    settings = EndpointSettings(urls=(server.url,), model=MODEL, prompt="", concurrency=4)
    calls = []

    def done(number, answer):
      calls.append(number)
      raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
      EndpointEngine(settings).run(iter((i, picture(i)) for i in range(40)), done)
  assert 1 <= len(calls) <= 4
  assert server.counts.total() <= 8
