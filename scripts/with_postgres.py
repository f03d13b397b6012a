#!/usr/bin/env python3
"""Runs a command with a PostgreSQL server that has pgvector, at the URL in ALBEF_TEST_POSTGRES.

    with_postgres.py COMMAND [ARGUMENT…]

The server is that of the Python package `pgserver`, in a temporary folder, and ends with the command. It refuses to run
as root, so that root's command gets one that runs as another user. It is built without TLS: at the URL in
ALBEF_TEST_POSTGRES_TLS is a proxy that encrypts, as `localhost`, with a certificate whose root is in
ALBEF_TEST_POSTGRES_ROOT.
"""

import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from urllib.parse import parse_qs, urlsplit

import pgserver
import trustme

SSL_REQUEST = struct.pack("!II", 8, 80877103)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Passes bytes on until either side ends."""
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client: socket.socket, context: ssl.SSLContext, server: str) -> None:
    """Encrypts a connection that asks for it; ends any other."""
    try:
        if client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) != SSL_REQUEST:
            client.close()
            return
        client.sendall(b"S")
        client = context.wrap_socket(client, server_side=True)
    except OSError:
        client.close()
        return
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(server)
    threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
    pump(client, upstream)


def encrypting(server: str, root: str) -> int:
    """The port of a proxy to the server's socket. The root of its certificate is written to a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("localhost", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, context, server), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="albef-postgres-") as folder:
        # The user of the server must get at it.
        os.chmod(folder, 0o755)
        with pgserver.get_server(os.path.join(folder, "data")) as server:
            url = urlsplit(server.get_uri())
            place = parse_qs(url.query)["host"][0]
            root = os.path.join(folder, "root.pem")
            port = encrypting(os.path.join(place, ".s.PGSQL.5432"), root)
            environment = dict(
                os.environ,
                ALBEF_TEST_POSTGRES=server.get_uri(),
                ALBEF_TEST_POSTGRES_TLS=f"postgres://{url.username}@localhost:{port}{url.path}",
                ALBEF_TEST_POSTGRES_ROOT=root,
                ALBEF_REQUIRE_POSTGRES="1",
            )
            return subprocess.run(sys.argv[1:], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
