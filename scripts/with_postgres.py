#!/usr/bin/env python3
"""Runs a command with a PostgreSQL server that has pgvector, at the URL in ALBEF_TEST_POSTGRES.

    with_postgres.py COMMAND [ARGUMENT…]

The server is that of the Python package `pgserver`, in a temporary folder, and ends with the command. It refuses to run
as root, so that root's command gets one that runs as another user.
"""

import os
import subprocess
import sys
import tempfile

import pgserver


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="albef-postgres-") as folder:
        # The user of the server must get at it.
        os.chmod(folder, 0o755)
        with pgserver.get_server(os.path.join(folder, "data")) as server:
            environment = dict(os.environ, ALBEF_TEST_POSTGRES=server.get_uri(), ALBEF_REQUIRE_POSTGRES="1")
            return subprocess.run(sys.argv[1:], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
