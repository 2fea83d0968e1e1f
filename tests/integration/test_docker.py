"""The files in docker/: valid by their schemas, and closed to everyone who was not given a password.

What the services do when they run is for tests/checks/stack_check.py.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import validator_for

from drorae.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SCHEMAS = Path(__file__).resolve().parents[1] / "data" / "schemas"
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|USERNAME")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def read_compose(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((DOCKER / name).read_text())


def interpolated(node: Any) -> Any:
    """The tree as Compose reads it where every required variable is set."""
    if isinstance(node, dict):
        return {key: interpolated(value) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value) for value in node]
    if not isinstance(node, str):
        return node
    return VARIABLE.sub(lambda match: match[3] if match[2] == ":-" else "value", node)


def complaints(tree: Any, schema: dict[str, Any]) -> list[str]:
    validator = validator_for(schema)
    validator.check_schema(schema)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator(schema).iter_errors(tree)]


def closed(schema: Any) -> Any:
    """A Kubernetes schema that refuses unknown fields, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tree = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        tree.setdefault("additionalProperties", False)
    return tree


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_compose_files_are_valid(name: str) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    tree = interpolated(read_compose(name))
    assert complaints(tree, schema) == []
    tree["services"]["ray-worker"]["helthcheck"] = {}
    assert complaints(tree, schema) != []


def test_the_rayjob_is_valid() -> None:
    claim, job = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    schema = closed(json.loads((SCHEMAS / "rayjob.v1.json").read_text()))
    # Every Kubernetes object has these two; the CRD says of the second only that it is an object.
    schema["properties"]["metadata"].pop("additionalProperties", None)
    assert (claim["kind"], job["kind"], job["apiVersion"]) == ("PersistentVolumeClaim", "RayJob", "ray.io/v1")
    assert complaints(job, schema) == []
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    assert complaints(job, schema) != []


def test_the_cluster_page_s_examples_are_valid() -> None:
    page = (ROOT / "docs" / "tasks" / "cluster.md").read_text()
    task, job = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    known = {"name", "num_nodes", "workdir", "resources", "envs", "secrets", "setup", "run"}
    assert set(task) == known and task["envs"] == {"RAY_AUTH_MODE": "token"}
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}, "the token is given when it is launched"
    for name in ("setup", "run"):
        checked = subprocess.run(["bash", "-n", "-c", task[name]], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")
    schema = closed(json.loads((SCHEMAS / "rayjob.v1.json").read_text()))
    schema["properties"]["metadata"].pop("additionalProperties", None)
    assert complaints(job, schema) == []
    sweeps = [job["spec"]["entrypoint"], *re.findall(r"drorae sweep .*", task["run"].replace("\\\n", ""))]
    assert len(sweeps) == 2
    assert all(main([*shlex.split(line)[1:], "--dry-run"]) == 0 for line in sweeps)


def test_nothing_is_published_beyond_this_machine() -> None:
    published = {name: service.get("ports", []) for name, service in interpolated(read_compose())["services"].items()}
    assert {name for name, ports in published.items() if ports} == {"ray-head", "mlflow"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert not any("network_mode" in service for service in read_compose()["services"].values())
    # Not even the Ray nodes reach the database and the objects.
    tree = read_compose()
    assert tree["networks"]["storage"] == {"internal": True}
    assert {name for name, service in tree["services"].items() if "storage" in service["networks"]} == {
        "mlflow",
        "postgres",
        "objects",
    }


def test_every_service_says_whether_it_is_well_and_waits_for_those_it_needs() -> None:
    services = read_compose()["services"]
    assert set(services) == {"ray-head", "ray-worker", "mlflow", "postgres", "objects"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        waits = service.get("depends_on", {})
        assert all(need == {"condition": "service_healthy"} for need in waits.values()), name
    assert set(services["mlflow"]["depends_on"]) == {"postgres", "objects"}


def test_every_password_has_to_be_set_and_none_has_a_default() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    required = {name for name, kind, _ in VARIABLE.findall(text) if kind == ":?"}
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert {name for name, value in example.items() if not value} == required
    assert set(example) == {name for name, _, _ in VARIABLE.findall(text)}
    for name, service in read_compose()["services"].items():
        values = {key: value for key, value in service["environment"].items() if SECRET.search(key)}
        assert values and all(":?" in value for value in values.values()), name
        assert not any(re.search(r"\$\{\w+:\?", part) for part in map(str, service.get("command", []))), name
    assert subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"], cwd=ROOT).returncode in (0, 128)


def test_data_lie_in_named_volumes() -> None:
    tree = read_compose()
    mounts = {name: service.get("volumes", []) for name, service in tree["services"].items()}
    assert {mount.split(":")[0] for found in mounts.values() for mount in found} == set(tree["volumes"])
    assert mounts["ray-head"] == mounts["ray-worker"] == ["shared:/shared"]
    assert "DRORAE_CACHE=/shared/cache" in (DOCKER / "Dockerfile").read_text()


def test_ray_and_mlflow_run_one_image_without_privileges() -> None:
    services = read_compose()["services"]
    ours = [services[name] for name in ("ray-head", "ray-worker", "mlflow")]
    assert {service["image"] for service in ours} == {"drorae:${TORCH_BACKEND:-cpu}"}
    assert all(service["cap_drop"] == ["ALL"] and service["build"] == ours[0]["build"] for service in ours)
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000:1000"]
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    script = next(part for part in services["mlflow"]["command"] if part.endswith(".py"))
    assert "COPY docker/serve_mlflow.py docker/mlflow-auth.ini /opt/drorae/server/" in lines
    assert script == "/opt/drorae/server/serve_mlflow.py"


def test_the_dockerfile_passes_hadolint_and_finds_what_it_copies() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert {path for line in copies for path in line.split()} == sent
    assert all((ROOT / path).exists() for path in sent)


def test_the_rayjob_runs_a_real_command_with_a_token_and_goes_on_where_it_was_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, job = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
    spec = job["spec"]
    program, *arguments = shlex.split(spec["entrypoint"])
    assert program == "drorae" and main([*arguments, "--dry-run"]) == 0
    assert "26 trials" in capsys.readouterr().out
    assert spec["backoffLimit"] > 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "drorae-ray"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "drorae-shared"
        (container,) = pod["containers"]
        assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert container["envFrom"] == [{"secretRef": {"name": "drorae-mlflow"}}] and "env" not in container
    assert "--root /shared/" in spec["entrypoint"]
