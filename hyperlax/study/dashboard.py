"""`hyperlax dashboard`: optuna-dashboard on a study's database, which it cannot write."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from hyperlax.errors import OptionError, UsageError
from hyperlax.study.database import reading_only
from hyperlax.study.directory import StudyDirectory
from hyperlax.study.view import load_study

_LARGEST_PORT = 65535


class _Server(ThreadingMixIn, WSGIServer):
    """A server with one thread per request: a browser sends several at once, and importances take a while."""

    daemon_threads = True


class _Quietly(WSGIRequestHandler):
    """A handler that does not print the requests it answers."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def serve(root: Path, host: str, port: int) -> int:
    """Serve the dashboard of the study, or population, in a directory until Ctrl-C; also while a process runs the study.

    port: 0 takes a free one. Returns 0. Raises UsageError if the study or its database does not exist yet, if optuna-dashboard
    is not installed, or if the port is taken.
    """
    if not 0 <= port <= _LARGEST_PORT:
        raise OptionError("port", "{port} needs a number from 0 to {0}, got {1}.", _LARGEST_PORT, port)
    name = load_study(root, "dashboard").record.study_name
    database = StudyDirectory(root).database
    if not database.exists():
        raise UsageError(f"dashboard {root}: has no database yet. It is created when the search starts.")
    if find_spec("optuna_dashboard") is None:
        raise UsageError('dashboard needs the package optuna-dashboard: pip install "hyperlax[dashboard]"')
    from optuna_dashboard import wsgi  # pyright: ignore[reportMissingImports]

    storage = reading_only(database)
    try:
        with _bound(host, port, wsgi(storage)) as server:
            study = storage.get_study_id_from_name(name)
            print(f"Dashboard of {name}: http://{host}:{server.server_port}/dashboard/studies/{study}", flush=True)
            print("Press Ctrl-C to stop.", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        storage.engine.dispose()
    return 0


def _bound(host: str, port: int, app: Any) -> WSGIServer:
    try:
        return make_server(host, port, app, server_class=_Server, handler_class=_Quietly)
    except OSError as error:
        problem = "dashboard: http://{0}:{1} cannot be served ({2}). Choose another {port}; 0 takes a free one."
        raise OptionError("port", problem, host, port, error.strerror) from error
