"""Credentials never leave the program, wherever they stand in a URI and whoever quotes it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from drorae.commands.main import main
from drorae.errors import UserError, brief, last_line
from drorae.redaction import public_address, redact, redact_logs
from drorae.runtime.shell import portable_command

SECRET = "s3cret"
URIS = [
    "http://alice:s3cret@host:5000/path",
    "http://alice:s3cr@s3cret@host/x",
    "https://s3cret@host",
    "http://:s3cret@host",
    "http://alice:p/s3cret?x#s3cret@host/x",
    "http://alice:it's3cret@host/x",
    "http://alice:p%40s3cret@[::1]:5000/",
    "http:/alice:s3cret@host/swallowed-slash",
    "postgresql+psycopg2://alice:s3cret@host/db",
    "postgresql://host/db?user=alice&password=s3cret&sslmode=require",
    "mongodb://alice:s3cret@h1:1,bob:s3cret@h2:2/db",
    "postgresql://alice:s3cret@h1:5432,h2:5432/db",
    "http://one:5000,http://alice:s3cret@two:5000",
    "https://host/x?token=s3cret",
    "https://host/x?a=b&access_token=s3cret#part",
    "https://acct.blob.core.windows.net/c/x?sv=1&sig=s3cret%3D&se=2",
    "https://b.s3.amazonaws.com/k?X-Amz-Credential=s3cret%2Fx&X-Amz-Signature=s3cret&X-Amz-Security-Token=s3cret",
    "https://storage.googleapis.com/b/k?X-Goog-Signature=s3cret",
    "wasbs://c@a.blob.core.windows.net/x?SharedAccessSignature=s3cret",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=s3cret==;EndpointSuffix=x",
    "host=db user=alice password=s3cret dbname=x",
    "https://login/?next=http%3A%2F%2Falice%3As3cret%40host%2Fx",
    "Authorization: Bearer s3cret",
    "{'Authorization': 'Basic s3cret='}",
    "s3://AKIA:s3cret@bucket/runs",
]
PLAIN = [
    "http://host:5000/path/me@x",
    "http://127.0.0.1:5000/#/experiments/1/runs/2",
    "sqlite:////home/me@work/mlflow.db",
    "sqlite:///C:/me@work/mlflow.db",
    "s3://bucket/a:b@c",
    "see http://host:5000, or write to me@host",
    '{"a": "http://host:80", "b": "me@host"}',
    "--where token_count=3 key=4 tokens=5",
    "psnr = 20.1 at 2:30; ratio=1",
    "postgresql://alice@host/db",
]


@pytest.mark.parametrize("uri", URIS)
def test_credentials_are_hidden(uri: str) -> None:
    for text in (uri, f"no answer from {uri}: refused", f"ConnectionError('{uri}')", json.dumps({"uri": uri})):
        hidden = redact(text)
        assert SECRET not in hidden and "***" in hidden
        assert redact(hidden) == hidden
    json.loads(redact(json.dumps({"uri": uri, "next": 1})))


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("uri", URIS)
def test_whatever_makes_a_line_of_an_error_hides_them(uri: str) -> None:
    long = "x" * 170 + " " + uri
    for text in (str(UserError(long)), brief(ValueError(long)), last_line(long), portable_command("fit", uri)):
        assert SECRET not in text


def test_links_have_none() -> None:
    assert public_address("http://alice:s3cret@host:5000/?token=s3cret") == "http://host:5000"


def test_logs_hide_them(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()
    try:
        redact_logs()
        redact_logs()
        try:
            raise ValueError("http://alice:s3cret@host")
        except ValueError:
            logging.getLogger("library").exception("no answer from %s", "http://alice:s3cret@host")
    finally:
        logging.setLogRecordFactory(factory)
    assert SECRET not in caplog.text and "no answer from http://***@host" in caplog.text


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_store_given_on_the_command_line_is_never_printed_with_its_password(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: list[str]
) -> None:
    uri = "http://alice:s3cret@host:1"

    def refuse(*anything: object, **named: object) -> None:
        raise MlflowException(f"API request to {uri}/api/2.0 failed: Max retries exceeded with url: {uri}")

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", refuse)
    words = ["fit", "mlflow:x", "--y", "psnr", "--tracking-uri", uri, *debug]
    if debug:
        with pytest.raises(UserError) as raised:
            main(words)
        assert SECRET not in str(raised.value)
        return
    assert main(words) == 2
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err and "http://***@host:1" in said.err


def test_the_address_of_the_charts_stays_whole() -> None:
    address = "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=3f2a&compareRunsMode=CHART"
    assert redact(address) == address
    assert SECRET not in redact(f"{address}&shareKey={SECRET}")
