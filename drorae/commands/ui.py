"""`drorae ui`: the MLflow UI on the sweeps' store."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from drorae.commands.options import Count, Folder, option, require
from drorae.commands.terminal import say
from drorae.errors import UserError
from drorae.storage.places import follow_store, sqlite_path, tracking_uri


@dataclass(kw_only=True)
class Ui:
    """Open the MLflow UI on the sweeps' runs; Ctrl-C ends it."""

    root: Folder = Path("runs")
    """Folder of all sweeps; its mlflow.db is shown unless MLFLOW_TRACKING_URI names another store."""
    port: Count = 5000
    """Port to listen on."""
    host: Annotated[str, option("ADDRESS")] = "127.0.0.1"
    """Address to listen on; the default cannot be reached from other machines."""

    def run(self) -> int:
        """Becomes the MLflow server.

        Raises:
            UserError: no store, the store is a server already, or the port is taken.
        """
        uri = tracking_uri(self.root)
        if uri.startswith(("http:", "https:")):
            raise UserError(f"MLFLOW_TRACKING_URI={uri} is a server with a UI of its own; open it in a browser")
        path = sqlite_path(uri)
        if path is not None and not path.is_file():
            raise UserError(f"{path}: no MLflow store here; run a sweep first, or name its folder with --root")
        require(0 < self.port < 65536, f"--port {self.port}", "a number from 1 to 65535")
        place = f"{self.host}:{self.port}"
        try:
            with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.host, self.port))
        except OSError as error:
            raise UserError(f"{place}: cannot listen there ({error.strerror}); choose another --port") from None
        follow_store(uri)
        say(f"MLflow UI on http://{place}  ({uri}); Ctrl-C ends it", keep=[uri])
        # One reader needs neither four workers nor MLflow's job runners: 2 processes instead of 15.
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        # MLflow's own complaints stay. The server under it would log a line per request and, at times, a traceback of
        # the Ctrl-C that ends it, at the level of an error.
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        quiet = ["--uvicorn-opts", "--log-level critical"]
        # Not as arguments, which every user of the machine can list, passwords and all.
        os.environ["MLFLOW_BACKEND_STORE_URI"] = os.environ["MLFLOW_REGISTRY_STORE_URI"] = uri
        arguments = ["--host", self.host, "--port", str(self.port), "--workers", "1"]
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *arguments, *quiet])
