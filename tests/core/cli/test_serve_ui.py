"""``topwork ui`` prints where to look, and serves only what no server serves yet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from topwork.cli import serve_ui as module
from topwork.cli.serve_ui import serve_ui

Command = Callable[..., tuple[int, str, str]]


@contextmanager
def answering() -> Iterator[str]:
    """A server that answers as MLflow's does to the question whether it lives."""

    class Alive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Alive)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_of_a_server_only_the_link_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_newest", lambda uri: ("run first", "#/experiments/1/runs"))
    with answering() as uri:
        serve_ui(uri, 5000)
    assert capsys.readouterr().out == f"{uri} is served at {uri}\nrun first:\n{uri}/#/experiments/1/runs\n"


def test_a_store_that_is_not_there_is_refused(command: Command) -> None:
    code, _, error = command("ui")
    assert code == 5
    assert error.startswith("error: there is no MLflow store ")


@pytest.mark.parametrize("port", ["0", "70000", "many"])
def test_a_port_that_is_none_is_refused(command: Command, port: str) -> None:
    code, _, error = command("ui", "--port", port)
    assert code == 2
    assert "--port" in error
