"""What a test reads of an HTML page."""

import html.parser

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
  """Fails on a tag that is not closed in order; collects texts, attributes and ids."""

  def __init__(self, source):
    super().__init__()
    self.open, self.attributes, self.texts = [], [], []
    self.feed(source)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.attributes += [(tag, name, value) for name, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.attributes += [(tag, name, value) for name, value in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if data.strip():
      self.texts.append(data.strip())

  def values(self, wanted):
    return [value for _, name, value in self.attributes if name == wanted]
