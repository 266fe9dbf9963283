"""Ports of localhost for servers that are started later."""

import socket

_HOLDERS = []


def reserve_port():
  """Returns a port at which nothing answers, and that no other process is given until this one ends.

  A server can listen there if it shares its port (SO_REUSEPORT), as those of gRPC do.
  """
  holder = socket.socket()
  holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
  holder.bind(("127.0.0.1", 0))
  _HOLDERS.append(holder)
  return holder.getsockname()[1]
