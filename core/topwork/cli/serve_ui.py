"""``topwork ui``."""

from contextlib import nullcontext

from topwork.cli.tables import console
from topwork.lab.processes import exit_on_sigterm
from topwork.lab.tracking.server import find_newest, serving
from topwork.lab.tracking.store import existing_uri, is_server, redact_uri


def serve_ui(uri: str | None, port: int) -> None:
    """Serve the store until interrupted, and print where to look; of a server print that only."""
    uri = existing_uri(uri)
    what, link = find_newest(uri)
    remote = is_server(uri)
    with exit_on_sigterm(), nullcontext() if remote else serving(uri, port) as process:
        address = uri.rstrip("/") if remote else f"http://127.0.0.1:{port}"
        console.print(f"{redact_uri(uri)} is served at {address}", soft_wrap=True)
        console.print(f"{what}:\n{address}/{link}", soft_wrap=True)
        if process:
            console.print("Ctrl-C ends it")
            process.wait()
