"""The MLflow store is found, reached and prepared, or refused at once with the reason."""

import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from run_helpers import open_small_store
from topwork.errors import StorageError, TopworkError
from topwork.lab.tracking import store as store_module
from topwork.lab.tracking.store import (
    PROCESS_TAG,
    TrackingStore,
    check_reachable,
    existing_uri,
    flatten,
    is_server,
    redact_text,
    redact_uri,
    sqlite_file,
    store_of,
    tracking_uri_of,
    tracking_uri_set,
)
from topwork.process_name import this_process
from waiting import PATIENCE

HOST, NUMBER, _, *NUMBERING = this_process().split(":")


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def closed_port() -> Iterator[str]:
    yield "http://127.0.0.1:9"


@contextmanager
def server_that_answers(code: int, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server of this machine that answers everything with a code."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(code)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def broken_server() -> Iterator[str]:
    """A server that answers everything with 500."""
    with server_that_answers(500) as uri:
        yield uri


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine that nobody has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(signed.public_bytes(Encoding.PEM) + plain)
    return path


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # that is what the variable asks for
def test_a_server_with_a_certificate_of_its_own_is_reached_as_mlflow_reaches_it(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with server_that_answers(200, tls) as uri:
        with pytest.raises(OSError, match="certificate verify failed"):
            check_reachable(uri)
        for variable, value in (
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate)),
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
            ("REQUESTS_CA_BUNDLE", str(certificate)),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(variable, value)
                check_reachable(uri)


@pytest.mark.parametrize("before", [None, "example.org"])
def test_servers_of_this_machine_are_reached_without_the_proxy_for_others(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, before or "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    with server_that_answers(200) as uri:
        check_reachable(uri)
        check_reachable(uri)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == ",".join(filter(None, [before, "127.0.0.1"]))


def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with server_that_answers(404) as uri:
        check_reachable(uri)
    assert "no_proxy" not in os.environ


@contextmanager
def closed_port_with_password() -> Iterator[str]:
    yield "http://me:hush@127.0.0.1:9"


@contextmanager
def no_port_with_password() -> Iterator[str]:
    yield "http://me:hush@nowhere.invalid"


@contextmanager
def rubbish() -> Iterator[str]:
    yield "http://[::1"


@contextmanager
def no_folder() -> Iterator[str]:
    Path("occupied").touch()
    yield f"sqlite:///{Path.cwd()}/occupied/mlflow.db"


@contextmanager
def no_database() -> Iterator[str]:
    Path("mlflow.db").write_text("this is not a database\n" * 100)
    yield f"sqlite:///{Path.cwd()}/mlflow.db"


@contextmanager
def no_scheme() -> Iterator[str]:
    yield "nonsense://somewhere"


@pytest.mark.parametrize(
    "place",
    [
        closed_port,
        closed_port_with_password,
        no_port_with_password,
        rubbish,
        silent_server,
        broken_server,
        no_folder,
        no_database,
        no_scheme,
    ],
    ids=lambda place: place.__name__,
)
@pytest.mark.reliability("D52")
def test_a_store_that_cannot_be_reached_is_said_at_once(
    place: Callable[[], AbstractContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "REACH_TIMEOUT", 0.5)
    with place() as uri, pytest.raises(StorageError) as caught:
        started = time.monotonic()
        open_small_store(uri)
    assert time.monotonic() - started < 60  # mlflow itself would retry for minutes
    shown = redact_uri(uri)
    assert str(caught.value).startswith(
        (f"the MLflow store {shown} cannot be reached: ", f"the MLflow store {shown} cannot be used: ")
    )
    assert "hush" not in str(caught.value)
    assert str(caught.value).endswith("; fix that, or train without it: --set tracking.enabled=false")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("place", [closed_port, broken_server, no_database], ids=lambda place: place.__name__)
def test_a_store_to_read_that_cannot_be_reached_is_said_at_once(
    place: Callable[[], AbstractContextManager[str]],
) -> None:
    with place() as uri, pytest.raises(StorageError) as caught:
        existing_uri(uri)
    assert str(caught.value).startswith(f"the MLflow store {uri} cannot be read: ")


def test_a_store_to_read_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        existing_uri(None)
    assert str(caught.value) == (
        f"there is no MLflow store {tmp_path}/mlflow.db; name one with --uri, or set MLFLOW_TRACKING_URI"
    )
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_there_is_found(store_uri: str) -> None:
    assert existing_uri(store_uri) == existing_uri(None) == store_uri


def test_a_store_that_another_process_writes_is_said(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "REACH_TIMEOUT", 0.1)
    other = sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="cannot be used: database is locked; fix that, or train without it"):
        open_small_store(store_uri)
    other.close()


def test_an_opened_store_has_the_experiment_and_its_artifacts_beside_it(store_uri: str, tmp_path: Path) -> None:
    store = open_small_store(store_uri)
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.name == "quickstart"
    assert experiment.artifact_location == (tmp_path / "mlruns" / "quickstart").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert open_small_store(store_uri).experiment_id == store.experiment_id
    again = store_of(store_uri, store.experiment_id)
    assert (again.uri, again.experiment_id) == (store.uri, store.experiment_id)
    assert again.client.get_experiment(store.experiment_id).name == "quickstart"


def test_an_experiment_that_was_deleted_is_not_used_again(store_uri: str) -> None:
    store = open_small_store(store_uri)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(TopworkError, match="experiment 'quickstart' was deleted there but keeps its name; restore it"):
        open_small_store(store_uri)
    assert open_small_store(store_uri, "tracking.experiment=another").experiment_id


@pytest.mark.parametrize(
    ("setting", "variable", "uri"),
    [
        (None, None, "sqlite:///{here}/mlflow.db"),
        (None, "http://from.variable", "http://from.variable"),
        (None, "", "sqlite:///{here}/mlflow.db"),
        ("http://from.file", "http://from.variable", "http://from.file"),
        ("sqlite:///sub/own.db", None, "sqlite:///{here}/sub/own.db"),
        ("sqlite:///own.db?timeout=60", None, "sqlite:///{here}/own.db?timeout=60"),
        ("sqlite+pysqlite:///own.db", None, "sqlite+pysqlite:///{here}/own.db"),
        ("sqlite:///:memory:", None, "sqlite:///:memory:"),
        ("databricks", None, "databricks"),
    ],
)
def test_the_experiment_comes_before_the_variable(
    setting: str | None, variable: str | None, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert tracking_uri_of(setting) == uri.format(here=tmp_path)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b"])
def test_a_path_that_mlflow_cannot_use_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(StorageError) as caught:
        tracking_uri_of(None)
    assert str(caught.value) == (
        f"MLflow cannot use a database whose path has ?, # or %: {tmp_path / name}/mlflow.db; give another tracking.uri"
    )


OPEN = """\
import sys
from topwork.experiment.schema import Tracking
from topwork.lab.tracking.store import open_store
print("ready", flush=True)
sys.stdin.readline()
print(open_store(Tracking(uri=sys.argv[1]), "quickstart").experiment_id)
"""


@pytest.mark.slow
@pytest.mark.reliability("D55")
def test_two_processes_may_create_a_store_at_the_same_time(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'fresh.db'}"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as at_the_end:
        command = [sys.executable, "-c", OPEN, uri]
        processes = [at_the_end.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
        for process in processes:
            at_the_end.callback(process.kill)
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n", "ready\n"]
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        ids = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
    assert ids[0] == ids[1] != ""


@pytest.mark.parametrize(
    ("owner", "status"),
    [
        pytest.param(":".join([HOST, "999999999", "1", *NUMBERING]), "KILLED", id="no such process"),
        pytest.param(":".join([HOST, NUMBER, "1", *NUMBERING]), "KILLED", id="another process of that number"),
        pytest.param(":".join([HOST, "nonsense", "1", *NUMBERING]), "KILLED", id="nonsense"),
        pytest.param(this_process(), "RUNNING", id="this process"),
        pytest.param(f"{HOST}:999999999:1:another-boot:1", "RUNNING", id="another kernel"),
        pytest.param(f"{HOST}:999999999:1.00", "RUNNING", id="of an earlier version"),
        pytest.param(None, "RUNNING", id="not ours"),
    ],
)
def test_only_runs_of_processes_that_are_known_to_be_dead_are_closed(
    store_uri: str, owner: str | None, status: str
) -> None:
    store = open_small_store(store_uri)
    tags = {PROCESS_TAG: owner} if owner else {}
    run = store.client.create_run(store.experiment_id, tags=tags)
    open_small_store(store_uri)
    assert store.client.get_run(run.info.run_id).info.status == status


@pytest.mark.usefixtures("heard")
def test_a_signal_does_not_wait_for_a_server(store_uri: str) -> None:
    opened = open_small_store(store_uri)
    store = TrackingStore("http://127.0.0.1:9", opened.experiment_id, opened.client)
    with pytest.raises(KeyboardInterrupt), store.defer_signals():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal waited")


def test_the_tracking_uri_of_mlflow_is_set_for_a_while(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking_uri_set(store_uri):
        assert mlflow.get_tracking_uri() == store_uri
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    with tracking_uri_set(store_uri):
        pass
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///elsewhere.db"


def test_a_tracking_uri_that_a_script_has_set_stays_set(store_uri: str) -> None:
    mlflow.set_tracking_uri("sqlite:///elsewhere.db")
    with tracking_uri_set(store_uri):
        pass
    assert mlflow.get_tracking_uri() == "sqlite:///elsewhere.db"
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    ("setting", "variable", "name"),
    [("own", "from variable", "own"), (None, "from variable", "from variable"), (None, None, "quickstart")],
)
def test_the_experiments_name_comes_before_that_of_the_variable(
    store_uri: str, setting: str | None, variable: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
    store = open_small_store(store_uri, *([f"tracking.experiment={setting}"] if setting else []))
    assert store.client.get_experiment(store.experiment_id).name == name


def test_settings_are_flattened_and_lists_stay_whole() -> None:
    nested = {"a": 1, "b": {"c": [1, {"d": 2}], "e": {"f": None}}, "g": {}}
    assert flatten(nested) == {"a": 1, "b.c": [1, {"d": 2}], "b.e.f": None}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:hush@host/path", "https://***@host/path"),
        ("postgresql://me@host/db", "postgresql://***@host/db"),
        ("https://me:hu@sh@host/path", "https://***@host/path"),
        ("https://host/a@b", "https://host/a@b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_a_uri_is_shown_without_who_uses_it(uri: str, shown: str) -> None:
    assert redact_uri(uri) == shown


def test_a_text_is_shown_without_passwords() -> None:
    text = "uri: https://me:hu@sh@host # and postgresql://you:hush@host/db\nmail: me@host, at 10:30 @home"
    assert redact_text(text) == (
        "uri: https://me:***@host # and postgresql://you:***@host/db\nmail: me@host, at 10:30 @home"
    )
    assert redact_text("uri: https://token@host/path") == "uri: https://***@host/path"


@pytest.mark.parametrize(
    ("uri", "server", "file"),
    [
        ("https://host", True, None),
        ("HTTP://host", True, None),
        ("http://host:5000", True, None),
        ("sqlite:///sub/own.db", False, "sub/own.db"),
        ("postgresql://host/db", False, None),
    ],
)
def test_servers_files_and_databases_are_told_apart(uri: str, server: bool, file: str | None, tmp_path: Path) -> None:
    assert is_server(uri) == server
    assert sqlite_file(uri) == (tmp_path / file if file else None)
