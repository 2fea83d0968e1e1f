"""The services of docker/compose.yaml without Docker, and a sweep through them: is everything recorded, once, safely?

    python tests/checks/stack_check.py [--ui FILE.png]

Starts PostgreSQL, an S3 server, docker/serve_mlflow.py and a two-node Ray cluster, each with authentication and on
loopback, submits a sweep of eight trials as a Ray job, and prints what it found; exits 1 where something is not as it
should be. `--ui` looks at the runs in the MLflow UI besides (tests/checks/ui_check.py). Not part of `make test`: it
takes minutes and needs PostgreSQL (Debian's `postgresql`) and `pip install -e ".[stack]"`.

Where it differs from the compose file: PostgreSQL is the system's, the S3 server is moto's with its check of keys and
signatures on, both Ray nodes are on one machine, and the token is in a file.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import psycopg2
from botocore.config import Config
from botocore.exceptions import ClientError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from local_cluster import ROOT, free_ports, two_nodes
from mlflow.tracking import MlflowClient

TRIALS = 8
AXES = ["capacity=4,16,64,256", "seed=0,1"]
BUCKET = "mlflow"


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once `ready` says so; raises where the process has ended or two minutes have passed."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError, psycopg2.Error):
            if ready():
                return
        if process.poll() is not None:
            break
        time.sleep(0.3)
    raise AssertionError(f"{what} did not start:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def service(
    what: str, command: list[str], ready: Callable[[], bool], folder: Path, user: str | None = None, **environment: str
) -> Iterator[None]:
    """A process that runs while the context does, its output in `folder/WHAT.log`."""
    log = folder / f"{what}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=file, cwd=folder, user=user,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(what, ready, process, log)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def status(url: str, **headers: str) -> int:
    """HTTP status of a GET."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[dict[str, str]]:
    """PostgreSQL with passwords checked by scram, and a database `mlflow`; what a client needs to know."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    programs = found[-1].parent
    assert (programs / "postgres").is_file(), "PostgreSQL is not installed; on Debian: apt-get install postgresql"
    # Like the image, PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    home = folder / "postgres"
    home.mkdir()
    password = secrets.token_hex(16)
    (home / "password").write_text(password)
    if user is not None:
        account = pwd.getpwnam(user)
        for path in (home, home / "password"):
            os.chown(path, account.pw_uid, account.pw_gid)
    data = str(home / "data")
    subprocess.run(
        [programs / "initdb", "--pgdata", data, "--username", "mlflow", "--pwfile", home / "password",
         "--auth-host=scram-sha-256", "--auth-local=scram-sha-256"],
        check=True, capture_output=True, user=user, cwd=home,
    )  # fmt: skip
    (home / "password").unlink()
    (port,) = free_ports(1)
    client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGPASSWORD": password}

    def ready() -> bool:
        command = [programs / "pg_isready", "--username=mlflow", "--host=127.0.0.1", f"--port={port}"]
        return subprocess.run(command, capture_output=True).returncode == 0

    command = [str(programs / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(home)]
    with service("postgres", command, ready, folder, user):
        # The image does this from POSTGRES_DB.
        subprocess.run([programs / "createdb", "mlflow"], env=os.environ | client, check=True)
        yield client


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 server that refuses requests without its keys; what a client needs to know."""
    (port,) = free_ports(1)
    # A name, not a number, as in the compose file: boto3 addresses buckets differently for the two.
    url = f"http://localhost:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # The three requests below make the account; from then on the server asks for keys.
    with service(
        "objects", command, lambda: status(f"{url}/moto-api/") == 200, folder, INITIAL_NO_AUTH_ACTION_COUNT="3"
    ):
        anyone = boto3.client(
            "iam", endpoint_url=url, region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
        )
        anyone.create_user(UserName="mlflow")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        anyone.put_user_policy(UserName="mlflow", PolicyName="all", PolicyDocument=policy)
        key = anyone.create_access_key(UserName="mlflow")["AccessKey"]
        yield {
            "MLFLOW_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "ARTIFACT_BUCKET": BUCKET,
        }


@contextlib.contextmanager
def tracking(folder: Path, settings: dict[str, str], secret_key: str) -> Iterator[dict[str, str]]:
    """The compose file's MLflow server; what a client needs to know."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    name, password = "researcher", secrets.token_hex(16)
    account = {
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret_key,
    }
    command = [sys.executable, str(ROOT / "docker" / "serve_mlflow.py"), "--host", "127.0.0.1", "--port", str(port),
               "--allowed-hosts", "mlflow:5000,localhost:*,127.0.0.1:*"]  # fmt: skip
    with service("mlflow", command, lambda: status(f"{url}/health") == 200, folder, **settings, **account):
        yield {
            "MLFLOW_TRACKING_URI": url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
            "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        }


class Report:
    """Checks one by one, with what they saw and how long they took."""

    def __init__(self) -> None:
        self.failed = 0
        self.began = time.monotonic()

    def add(self, what: str, good: bool, seen: str) -> None:
        """Prints a check; the time is that since the one before."""
        now = time.monotonic()
        print(f"{'ok' if good else 'FAILED':6}  {what:44}  {seen:60}  {now - self.began:6.1f} s", flush=True)
        self.failed += not good
        self.began = time.monotonic()


def check_refusals(report: Report, cluster: dict[str, str], store: dict[str, str], database: dict[str, str]) -> None:
    """Each service without its password, token or keys."""
    mlflow, ray = cluster["MLFLOW_TRACKING_URI"], cluster["DASHBOARD"]
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=5"
    wrong = status(search, Authorization="Basic cmVzZWFyY2hlcjp3cm9uZw==")
    pages = [status(f"{mlflow}{path}") for path in ("/", "/ajax-api/2.0/mlflow/experiments/search?max_results=5",
             "/api/2.0/mlflow-artifacts/artifacts")]  # fmt: skip
    codes = [status(search), wrong, *pages]
    report.add("MLflow without or with a wrong password", set(codes) == {401}, f"{codes}")
    codes = [status(f"{ray}/api/jobs/"), status(f"{ray}/api/jobs/", Authorization="Bearer 0")]
    report.add("Ray without or with a wrong token", set(codes) <= {401, 403}, f"{codes}")
    codes = [status(f"{store['MLFLOW_S3_ENDPOINT_URL']}/{BUCKET}")]
    forged = boto3.client(
        "s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id=store["AWS_ACCESS_KEY_ID"], aws_secret_access_key="wrong",
        config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip
    try:
        forged.list_objects_v2(Bucket=BUCKET)
        codes.append(200)
    except ClientError as error:
        codes.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
    # moto refuses a request without any signature by failing.
    report.add("objects without or with a wrong key", codes[0] in (403, 500) and codes[1] == 403, f"{codes}")
    try:
        psycopg2.connect(host="127.0.0.1", port=database["PGPORT"], user="mlflow", password="wrong", dbname="mlflow")
        seen = "connected"
    except psycopg2.OperationalError as error:
        seen = str(error).strip().rpartition("FATAL:")[2].strip()
    report.add("PostgreSQL with a wrong password", "authentication failed" in seen, seen)


def sweep(cluster: dict[str, str], root: Path) -> tuple[str, float]:
    """Submits the sweep as a job; its output and seconds."""
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {name: value for name, value in cluster.items() if name != "RAY_ADDRESS"}
    command = [ray, "job", "submit", "--address", cluster["DASHBOARD"], "--", sys.executable, "-m", "drorae",
               "sweep", "--preset", "smoke", "--no-check-convergence",
               "--axis", *AXES, "--set", "phase2.epochs=8", "--cpus-per-trial", "1",
               "--name", "stack", "--root", str(root)]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, time.monotonic() - began


def most_at_once(spans: list[tuple[int, int]]) -> int:
    """How many intervals overlap at most."""
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def check_records(report: Report, client: MlflowClient, store: dict[str, str]) -> None:
    """Runs, steps and artifacts, each once."""
    experiment = client.get_experiment_by_name("stack")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if run.data.tags["drorae.kind"] == "trial"]
    hashes = {run.data.tags["drorae.config_hash"] for run in trials}
    sweeps = sum(run.data.tags["drorae.kind"] == "sweep" for run in runs)
    states = sorted({run.info.status for run in runs})
    good = len(trials) == len(hashes) == TRIALS and sweeps == 1 and states == ["FINISHED"]
    report.add(
        "runs", good, f"{len(trials)} trials of {len(hashes)} configs, {sweeps} sweep, {len(runs)} in all; {states}"
    )
    busy = most_at_once([(run.info.start_time, run.info.end_time) for run in trials])
    report.add("trials writing at once", busy >= 4, f"{busy}")
    rows, twice = 0, 0
    for run in trials:
        for name in (name for name in run.data.metrics if name.startswith("train/")):
            steps = [item.step for item in client.get_metric_history(run.info.run_id, name)]
            rows, twice = rows + len(steps), twice + len(steps) - len(set(steps))
    report.add("steps in PostgreSQL", rows > 0 and not twice, f"{rows} values, {twice} of them twice")
    objects = stored(store)
    missing = [run.info.run_id for run in trials if not any(f"/{run.info.run_id}/artifacts/config.json" in name
               for name in objects)]  # fmt: skip
    size = sum(map(len, objects.values())) / 1e6
    report.add("artifacts in the bucket", not missing, f"{len(objects)} objects, {size:.1f} MB, {len(missing)} without")
    example = client.download_artifacts(trials[0].info.run_id, "config.json")
    same = any(Path(example).read_bytes() == body for name, body in objects.items() if trials[0].info.run_id in name)
    report.add("an artifact through MLflow", same, "the bucket's bytes" if same else "other bytes")


def stored(store: dict[str, str]) -> dict[str, bytes]:
    """Every object in the bucket."""
    client = boto3.client(
        "s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id=store["AWS_ACCESS_KEY_ID"], aws_secret_access_key=store["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    names = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def check_secrets(
    report: Report, hidden: dict[str, str], folder: Path, client: MlflowClient, store: dict[str, str]
) -> None:
    """No password in a run, an artifact, a result or a log, those of Ray and of every service among them."""
    experiment = client.get_experiment_by_name("stack")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    texts = {f"run {run.info.run_id}": repr(run.to_dictionary()).encode() for run in runs}
    texts |= {"experiment": repr(experiment.tags).encode()} | stored(store)
    # PostgreSQL's own files hold what MLflow wrote; the token's file is where the token belongs.
    files = [path for path in folder.rglob("*") if path.is_file() and "postgres/" not in str(path)]
    texts |= {str(path): path.read_bytes() for path in files if path.name != "token"}
    found = [f"{name} in {where}" for (name, value), (where, text) in itertools.product(hidden.items(), texts.items())
             if value.encode() in text]  # fmt: skip
    seen = "; ".join(found[:3]) or f"none of {len(hidden)} in {len(texts)} runs, objects, files and logs"
    report.add("passwords, keys and the token", not found, seen)


def main() -> int:
    """Runs every check; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ui", type=Path, metavar="FILE.png", help="also look at the runs in the MLflow UI")
    ui = parser.parse_args().ui
    report = Report()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="d")))
        # PostgreSQL's user has to reach its own folder.
        folder.chmod(0o711)
        database = stack.enter_context(postgres(folder))
        report.add("PostgreSQL", True, "answers, with scram passwords")
        store = stack.enter_context(object_store(folder))
        report.add("S3 server", True, "answers, with keys")
        secret_key = secrets.token_hex(16)
        account = stack.enter_context(tracking(folder, database | store, secret_key))
        report.add("MLflow server", True, "answers, with accounts")
        nodes = account | {"DRORAE_CACHE": str(folder / "cache")}
        # The head drives, the worker trains.
        cluster = stack.enter_context(two_nodes(folder, (0, 0), (4, 0), nodes))
        report.add("Ray, two nodes", True, "started, with a token")
        check_refusals(report, cluster, store, database)
        output, seconds = sweep(cluster, folder / "runs")
        charts = re.search(r"^charts: (\S+)$", output, re.MULTILINE)
        report.add("drorae sweep, as a Ray job", charts is not None, f"{TRIALS} trials, {seconds:.0f} s")
        os.environ.update(account | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
        client = MlflowClient()
        check_records(report, client, store)
        hidden = {
            "PostgreSQL's password": database["PGPASSWORD"],
            "the artifact store's key": store["AWS_SECRET_ACCESS_KEY"],
            "MLflow's password": account["MLFLOW_TRACKING_PASSWORD"],
            "MLflow's secret key": secret_key,
            "Ray's token": Path(cluster["RAY_AUTH_TOKEN_PATH"]).read_text(),
        }
        check_secrets(report, hidden, folder, client, store)
        if ui is not None and charts is not None:
            from ui_check import look

            report.add("the MLflow UI", *look(charts[1], account, ui))
    print(f"{report.failed} failed" if report.failed else "all as it should be")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
