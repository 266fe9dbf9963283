"""Zip archives are untrusted: corrupt and ambiguous ones are refused with the name of the entry."""

import struct
import zipfile

import pytest
import torch_zip as tz

ARCHIVES = {
  "bomb": (
    lambda path: tz.archive(path, b"\0" * 10**7, {}, compression=zipfile.ZIP_DEFLATED),
    "archive/data.pkl' is compressed",
  ),
  "parent name": (tz.with_entries(("archive/../../etc/passwd", b"x")), "has a name that PyTorch does not write"),
  "absolute name": (tz.with_entries(("/etc/passwd", b"x")), "'/etc/passwd' has a name that PyTorch does not write"),
  "backslash": (tz.with_entries(("archive\\data\\9", b"x")), "has a name that PyTorch does not write"),
  "duplicate": (tz.with_duplicate_entry, "two entries are named 'archive/data/0'"),
  "overlap": (tz.redirected(tz.local_header(b"archive/data/1", 16) + b"x" * 16), "data/1' overlaps entry '.*data/0'"),
  "same bytes": (
    tz.redirected(tz.local_header(b"archive/data/0", 16) + b"x" * 16),
    "data/1' has another name in its local header",
  ),
  "name with zero": (tz.directory_field(46 + 3, b"\0"), "has a name that PyTorch does not write"),
  "dot": (tz.with_entries(("archive/./9", b"x")), "has a name that PyTorch does not write"),
  "encrypted": (tz.directory_field(8, b"\1"), "is encrypted; decrypt the file first"),
  "strongly encrypted": (tz.directory_field(8, b"\x40"), "is encrypted; decrypt the file first"),
  "encrypted in secret": (tz.edited(lambda data: data[:6] + b"\1" + data[7:]), "is encrypted; decrypt the file first"),
  "compressed in secret": (
    tz.edited(lambda data: data[:8] + b"\x08" + data[9:]),
    "is compressed; only uncompressed entries",
  ),
  "sizes differ": (tz.directory_field(20, b"\1\0\0\0"), "is compressed; only uncompressed entries"),
  "size outside": (
    tz.directory_field(20, struct.pack("<II", 10**6, 10**6)),
    r"data\.pkl' extends into the zip directory or past the end of the file",
  ),
  "header outside": (tz.directory_field(42, struct.pack("<I", 10**6)), r"data\.pkl' lies outside of the file"),
  "other name within": (
    tz.edited(lambda data: data.replace(b"data.pkl", b"data.pkx", 1)),
    "has another name in its local header",
  ),
  "directory outside": (tz.end_record_field(16, b"\xff\xff\xff\x0f"), "corrupt"),
  "large directory": (tz.end_record_field(12, b"\xff\xff\xff\x0f"), "directory has 268435455 bytes; at most"),
  "comment": (
    tz.edited(lambda data: data[:-2] + b"\1\0x"),
    "no end record at the end of the file, which may be truncated; download",
  ),
  "cut early": (
    tz.edited(lambda data: data[:50]),
    "no end record at the end of the file, which may be truncated; download",
  ),
  "cut late": (
    tz.edited(lambda data: data[:-30]),
    "no end record at the end of the file, which may be truncated; download",
  ),
  "cut middle": (tz.edited(lambda data: data[:40] + data[90:]), "corrupt"),
  "cut at the end": (
    tz.edited(lambda data: data[:-1]),
    "no end record at the end of the file, which may be truncated; download",
  ),
  "cut to a header": (
    tz.edited(lambda data: data[:4]),
    "no end record at the end of the file, which may be truncated; download",
  ),
  "lost header": (tz.edited(lambda data: data.replace(b"PK\x03\x04", b"PK\x07\x04", 1)), "not a zip archive"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_corrupt_archive_is_refused(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  tz.assert_refused(tmp_path, *ARCHIVES[name])
