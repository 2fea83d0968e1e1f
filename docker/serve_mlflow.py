"""Becomes the stack's MLflow server: accounts and runs in PostgreSQL, artifacts in an S3 bucket that it makes.

    python serve_mlflow.py [--host ADDRESS] [--port N] [more options of `mlflow server`]

Reads from the environment, so that no password stands in a command line:

- PGHOST, PGPORT, PGUSER, PGPASSWORD: PostgreSQL, with a database `mlflow`
- MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ARTIFACT_BUCKET: the artifact store
- MLFLOW_AUTH_ADMIN_USERNAME, MLFLOW_AUTH_ADMIN_PASSWORD: the first account, made with an empty database
- MLFLOW_FLASK_SERVER_SECRET_KEY: signs the forms of the account pages

MLflow itself refuses to start without the last three.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3

# The driver is named: which one SQLAlchemy takes for plain `postgresql` changed with 2.1.
DATABASE = "postgresql+psycopg2:///mlflow"


def make_bucket(name: str) -> None:
    """Makes the artifact store's bucket unless it is there."""
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if name not in (bucket["Name"] for bucket in store.list_buckets()["Buckets"]):
        store.create_bucket(Bucket=name)


def main() -> None:
    """Makes the bucket and becomes `mlflow server`; options given are passed on."""
    bucket = os.environ["ARTIFACT_BUCKET"]
    make_bucket(bucket)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(Path(__file__).with_name("mlflow-auth.ini"))
    # Ten processes for assistants and evaluations that nobody here asks for.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", DATABASE,
               "--artifacts-destination", f"s3://{bucket}", "--workers", "2", *sys.argv[1:]]  # fmt: skip
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
