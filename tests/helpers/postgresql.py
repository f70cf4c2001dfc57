"""A PostgreSQL server of its own for tests: real, empty, and gone afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def find_programs() -> Path:
    """Return the folder with PostgreSQL's programs, or skip the test."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


@contextmanager
def server() -> Iterator[str]:
    """Run a server and yield its URL, to which the name of a database is added."""
    programs = find_programs()
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="topwork-postgresql-"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        subprocess.run([programs / program, *arguments], user=user, cwd=folder, check=True, capture_output=True)

    data = str(folder / "data")
    try:
        call("initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        call("pg_ctl", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options, "start")
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        subprocess.run(
            [programs / "pg_ctl", "--pgdata", data, "--mode", "immediate", "stop"],
            user=user,
            cwd=folder,
            check=False,
            capture_output=True,
        )
        shutil.rmtree(folder, ignore_errors=True)


def create_database(url: str, name: str) -> str:
    """Create an empty database and return its URL."""
    import psycopg

    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url}/{name}"
