"""The search page: queries, thumbnails, escaping, and requests that are refused."""

import concurrent.futures
import contextlib
import http.client
import re
import socket
import struct
import threading
import urllib.parse
import urllib.request

import browser
import numpy as np
import pytest
import simplejpeg
from page import Page
from videos import write_videos

from clipvip_jax.inference.search import Hit
from clipvip_jax.inference.video_index import VideoIndex
from clipvip_jax.reporting.search_server import SearchServer
from clipvip_jax.utils.errors import UserError


def index_of(names, segments=""):
  features = np.zeros((len(names), 3), np.float32)
  return VideoIndex(features, names, "fake", "fake-1", bad=[], reasons=[], segments=segments)


@contextlib.contextmanager
def serving(index, search=None, **options):
  """Serves an index; by default, all videos are found."""

  def find_all(query, where):
    clips = map(index.clip, range(len(index.videos)))
    return [Hit(clip.path, 0.5, clip.start, clip.end, row) for row, clip in enumerate(clips)]

  with SearchServer(**options) as server:
    thread = threading.Thread(target=server.serve, args=(search or find_all, index))
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()


def get(server, path, method="GET", **headers):
  """Returns status, headers and content of a response."""
  connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
  with contextlib.closing(connection):
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def page_of(server, **values):
  status, _, content = get(server, f"/?{urllib.parse.urlencode(values)}")
  return status, Page(content.decode())


def test_page_shows_hits_with_thumbnails(tmp_path):
  videos = list(map(str, write_videos(tmp_path / "v", 2)))
  with serving(index_of(videos)) as server:
    status, headers, content = get(server, "/")
    assert status == 200 and "<form" in content.decode() and "<li" not in content.decode()
    assert headers["X-Frame-Options"] == "DENY" and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    status, page = page_of(server, q="a red square")
    assert status == 200 and "a red square" in page.values("value")
    assert {*videos} <= {*page.texts} and "similarity 0.500" in page.texts
    frames = [value for value in page.values("src") if value]
    assert frames == ["/frame?row=0", "/frame?row=1"]
    for path, colour in zip(frames, (0, 1), strict=True):
      status, headers, content = get(server, path)
      assert status == 200 and headers["Content-Type"] == "image/jpeg"
      assert simplejpeg.decode_jpeg(content).mean((0, 1)).argmax() == colour


def test_thumbnails_of_moments_are_frames_within_them(tmp_path):
  (video,) = write_videos(tmp_path / "v", 1)
  index = index_of([f"{video}@0-0.5", f"{video}@50-60"], "1s")
  with serving(index) as server:
    _, page = page_of(server, q="x")
    assert "0:00 to 0:00.5, similarity 0.500" in page.texts and "Search 2 moments" in page.texts
    assert [get(server, f"/frame?row={row}")[0] for row in (0, 1)] == [200, 404]


def test_query_and_filter_reach_the_search_and_errors_the_page():
  calls = []

  def search(query, where):
    calls.append((query, where))
    if where:
      raise UserError(f"--where={where!r} is <wrong>")
    return []

  with serving(index_of(["a.mp4"]), search) as server:
    status, page = page_of(server, q=" caf\u00e9 & co ", where="")
    assert status == 200 and "No video of the index matches the filter." in page.texts
    status, page = page_of(server, q="x", where="<b>")
    assert status == 400 and "--where='<b>' is <wrong>." in page.texts and "<b>" in page.values("value")
    page_of(server, q=" ", where="year=1")
    page_of(server, q="x" * 5000)
  assert calls == [("caf\u00e9 & co", ""), ("x", "<b>"), ("x" * 1000, "")]


def test_texts_are_escaped_and_printable():
  with serving(index_of(["<script>alert(1)</script>\x1b\udce9.mp4"])) as server:
    status, _, content = get(server, "/?q=%22%3E%3Cscript%3Ealert(2)%3C/script%3E%FF")
  assert status == 200 and b"<script" not in content
  assert rb"alert(1)&lt;/script&gt;\x1b\udce9.mp4" in content


NOT_SERVED = (
  "/etc/passwd",
  "/../../etc/passwd",
  "/v/000.mp4",
  "//etc/passwd",
  "/frame",
  "/frame?row=2",
  "/frame?row=-1",
  "/frame?row=/etc/passwd",
  "/frame?row=0/../1",
  "/frame?row=%00",
  "/frame?row=%D9%A1",  # a digit one that is not ASCII
  "/frame/0",
  f"/frame?row={'9' * 5000}",
  "/favicon.ico",
)


def test_nothing_but_rows_of_the_index_is_served(tmp_path):
  videos = list(map(str, write_videos(tmp_path / "v", 2)))
  with serving(index_of(videos)) as server:
    for path in NOT_SERVED:
      status, _, content = get(server, path)
      assert status == 404 and content in (b"no such page", b"no such frame"), path


def test_a_row_whose_file_is_no_video_is_not_served(tmp_path):
  (tmp_path / "secret.mp4").write_bytes(b"secret")
  with serving(index_of([str(tmp_path / "secret.mp4"), str(tmp_path)])) as server:
    assert [get(server, f"/frame?row={row}")[0] for row in (0, 1)] == [404, 404]


def test_a_video_that_can_be_read_again_is_shown(tmp_path):
  (video,) = write_videos(tmp_path / "v", 1)
  with serving(index_of([str(video)])) as server:
    video.rename(tmp_path / "away.mp4")
    assert get(server, "/frame?row=0")[0] == 404
    (tmp_path / "away.mp4").rename(video)
    assert get(server, "/frame?row=0")[0] == 200


@pytest.mark.parametrize(
  ("host", "named"),
  [("0:0:0:0:0:0:0:1", "[::1]"), ("127.0.0.2", "127.0.0.2"), ("127.2", "127.0.0.2"), ("0", "x.example")],
)
def test_an_address_is_accepted_as_browsers_spell_it(host, named):
  with SearchServer(host) as server:
    assert server.accepts(f"{named}:{server.server_address[1]}")
    assert server.accepts("evil.example") == (host == "0")


def test_only_the_servers_own_names_and_methods_are_accepted():
  with serving(index_of(["a.mp4"])) as server:
    port = server.server_address[1]
    for host, expected in (
      (f"localhost:{port}", 200),
      (f"[::1]:{port}", 200),
      ("evil.example", 403),
      (f"127.0.0.1.evil.example:{port}", 403),
      ("[", 400),
      ("", 403),
    ):
      assert get(server, "/", Host=host)[0] == expected, host
    assert get(server, "/", "POST")[0] == 501 and get(server, "/", "DELETE")[0] == 501
  with serving(index_of(["a.mp4"]), host="0.0.0.0") as server:
    assert get(server, "/", Host="nas.example")[0] == 200


def test_head_is_answered_as_get_without_content(tmp_path):
  videos = list(map(str, write_videos(tmp_path / "v", 1)))
  with serving(index_of(videos)) as server:
    for path in ("/", "/?q=red", "/frame?row=0", "/none"):
      status, headers, content = get(server, path, "HEAD")
      expected, full_headers, full = get(server, path)
      assert (status, content) == (expected, b"") and full and headers["Content-Length"] == str(len(full)), path
      assert headers["Content-Type"] == full_headers["Content-Type"]


def has_ipv6():
  try:
    with socket.create_server(("::1", 0), family=socket.AF_INET6):
      return True
  except OSError:
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize("host", ["0.0.0.0", "", "0", *(pytest.param(x, marks=needs_ipv6) for x in ("::", "0:0::0"))])
def test_the_address_of_all_interfaces_is_one_that_a_browser_opens(host):
  with serving(index_of(["a.mp4"]), host=host) as server:
    local = "[::1]" if ":" in host else "127.0.0.1"
    assert server.url == f"http://{local}:{server.server_address[1]}/"
    with urllib.request.urlopen(server.url, timeout=20) as response:
      assert response.status == 200


def test_many_clients_are_answered_while_others_disconnect():
  is_open = threading.Event()

  def search(query, where):
    assert is_open.wait(20)
    return []

  with serving(index_of(["a.mp4"]), search) as server:
    address = server.server_address[:2]
    for _ in range(20):  # leave before the answer
      with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"GET /?q=x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    is_open.set()
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
      statuses = list(pool.map(lambda number: get(server, f"/?q={number}")[0], range(60)))
  assert statuses == [200] * 60


def test_a_port_in_use_is_refused():
  with SearchServer() as server:
    port = server.server_address[1]
    with pytest.raises(
      UserError, match=rf"--port={port} on 127\.0\.0\.1 cannot be opened \(Address already in use\); choose"
    ):
      SearchServer(port=port)
    assert server.url == f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"port": 70_000}, "--port=70000 must be between 0 and 65535"),
    ({"host": "192.0.2.1"}, r"on 192\.0\.2\.1 cannot be opened"),
    ({"host": "no.such.host.invalid"}, r"on no\.such\.host\.invalid cannot be opened"),
    ({"host": "a" * 80}, "cannot be opened"),
    ({"host": "\u00e9" * 80}, r"cannot be opened \(.+\); choose another --port or --host"),
    ({"host": "a\0b"}, r"on a.x00b cannot be opened"),
  ],
)
def test_wrong_addresses_are_refused(options, message):
  with pytest.raises(UserError, match=message) as refused:
    SearchServer(**options)
  assert "\n" not in str(refused.value)


def test_browser_shows_the_page_with_thumbnails(tmp_path):
  videos = list(map(str, write_videos(tmp_path / "v", 3)))
  with serving(index_of(videos)) as server:
    document, console = browser.opened(f"{server.url}?q=a+red+square")
    assert server.frame.cache_info().currsize == 3, "the browser has loaded every thumbnail"
  assert console == []
  assert all(video in document for video in videos) and re.search(r'name="q" value="a red square"', document)
