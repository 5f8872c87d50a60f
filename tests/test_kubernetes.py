"""The manifests: what they name is there, what they promise they ask for. No cluster is needed."""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # uvicorn brings it, without types
from sqlalchemy import Engine, text

from config import Settings
from metrics.exporter import PATH
from tests.recordings import PROJECT_DIR

FOLDER = PROJECT_DIR / "deploy/kubernetes"
KUSTOMIZATIONS = ("base", "keda", "monitoring")
#: Made by whoever installs it, as docs/kubernetes.md says.
SECRETS = {
    "transcription-owner": {"database_url"},
    "transcription-service": {"database_url", "redis_url", "webhook_signing_key"},
    "transcription-web": {"api_keys"},
    "transcription-keda": {"connection"},
}
#: Of these, such as our processes read.
OURS = SECRETS.keys() - {"transcription-keda"}
Thing = dict[str, Any]


@functools.cache
def things() -> tuple[Thing, ...]:
    files = sorted(path for path in FOLDER.glob("*/*.yaml") if path.name != "kustomization.yaml")
    return tuple(thing for path in files for thing in yaml.safe_load_all(path.read_text("utf-8")))


def of_kind(*kinds: str) -> dict[str, Thing]:
    return {thing["metadata"]["name"]: thing for thing in things() if thing["kind"] in kinds}


WORKLOADS = of_kind("Deployment", "Job")
every_workload = pytest.mark.parametrize("name", WORKLOADS)


def pod(name: str) -> Thing:
    found: Thing = WORKLOADS[name]["spec"]["template"]["spec"]
    return found


def container(name: str) -> Thing:
    (found,) = pod(name)["containers"]
    return dict(found)


def config() -> dict[str, str]:
    return dict(of_kind("ConfigMap")["transcription"]["data"])


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_every_file_is_part_of_its_kustomization(folder: str) -> None:
    told = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text("utf-8"))
    files = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}

    assert {name for name in told["resources"] if not name.startswith("..")} == files


def test_everything_that_runs_with_compose_runs_here() -> None:
    services = yaml.safe_load((PROJECT_DIR / "docker-compose.yml").read_text("utf-8"))["services"]

    for name in WORKLOADS:
        command = services[name]["command"]
        assert container(name)["command"] == command
        assert container(name)["image"] == services[name].get("image", "transcription-web")


@every_workload
def test_nobody_is_root_or_could_become_it(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["runAsUser"] == 10001
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@every_workload
def test_memory_is_asked_for_and_limited(name: str) -> None:
    resources = container(name)["resources"]

    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]


@every_workload
def test_what_is_mounted_is_there_and_can_be_written_where_settings_say(name: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    claims = of_kind("PersistentVolumeClaim")
    mounted = {mount["name"]: mount["mountPath"] for mount in container(name)["volumeMounts"]}

    assert mounted.keys() == volumes.keys()
    assert {"/tmp", config()["STATE_DIR"]} <= {*mounted.values()}  # noqa: S108 - in the container
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
        elif "projected" in volume:
            assert {source["secret"]["name"] for source in volume["projected"]["sources"]} <= {
                *SECRETS
            }
        else:
            assert volume["emptyDir"]["sizeLimit"]


def test_secrets_are_those_that_who_needs_them_is_given_alone() -> None:
    given = {}
    for name in WORKLOADS:
        sources = [v["projected"]["sources"] for v in pod(name)["volumes"] if "projected" in v]
        given[name] = {source["secret"]["name"] for found in sources for source in found}

    assert given == {
        "migrations": {"transcription-owner"},
        "models": set(),
        "web": {"transcription-service", "transcription-web"},
        **{name: {"transcription-service"} for name in ("worker", "maintenance", "webhooks")},
    }


def test_the_document_makes_every_secret_and_each_is_a_setting() -> None:
    document = (PROJECT_DIR / "docs/kubernetes.md").read_text("utf-8").replace("\\\n", "")
    made = {
        name: {*re.findall(r"--from-literal=(\w+)=", rest)}
        for name, rest in re.findall(r"create secret generic (\S+) (.*)", document)
    }
    settings = set().union(*(keys for name, keys in SECRETS.items() if name in OURS))

    assert made == SECRETS
    assert settings <= Settings.model_fields.keys()


def test_what_is_set_is_a_setting_and_has_a_value_that_it_takes() -> None:
    values = {name.lower(): value for name, value in config().items() if name != "SECRETS_DIR"}
    added = {v["name"] for name in WORKLOADS for v in container(name).get("env", ())}

    assert values.keys() <= Settings.model_fields.keys()
    assert {name.lower() for name in added} - {"secrets_dir"} <= Settings.model_fields.keys()
    Settings.model_validate(values)


def test_a_worker_is_given_the_time_that_it_takes_to_stop() -> None:
    takes = sum(float(config()[name]) for name in ("DRAIN_SECONDS", "DRAIN_FORCE_SECONDS"))

    assert pod("worker")["terminationGracePeriodSeconds"] == takes + 15


def test_probes_ask_what_is_there() -> None:
    web = container("web")
    alive = config()["ALIVE_FILE"]
    paths = {web[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")}

    assert (paths, web["readinessProbe"]["httpGet"]["path"]) == ({"/health"}, "/ready")
    for name in ("worker", "maintenance", "webhooks"):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert alive in container(name)[probe]["exec"]["command"][-1]


def test_ports_and_selectors_fit() -> None:
    deployments = of_kind("Deployment")
    named = {
        d["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for d in deployments.values()
    }
    ports = {p["containerPort"] for name in deployments for p in container(name).get("ports", ())}

    assert ports == {int(config()["PORT"]), int(config()["METRICS_PORT"])}
    for budget in of_kind("PodDisruptionBudget").values():
        assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in named
    for service in of_kind("Service").values():
        assert service["spec"]["selector"]["app.kubernetes.io/name"] in named
    (monitor,) = of_kind("ServiceMonitor").values()
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert of_kind("Service")["metrics"]["metadata"]["labels"] == selected
    assert PATH == "/metrics"  # the operator's default


@pytest.mark.security("confinement", "figures that are asked for from outside of the cluster")
def test_metrics_are_reached_from_one_namespace_alone() -> None:
    policies = [t for t in things() if t["kind"] == "NetworkPolicy"]
    open_to_all = [
        p for p in policies if any("from" not in r for r in p["spec"].get("ingress", ()))
    ]

    assert [p["metadata"]["name"] for p in open_to_all] == ["web"]
    assert open_to_all[0]["spec"]["ingress"] == [{"ports": [{"port": 8000}]}]


# Scaling


def test_the_one_that_is_scaled_says_no_number_itself() -> None:
    (scaled,) = of_kind("ScaledObject").values()

    assert scaled["spec"]["scaleTargetRef"]["name"] == "worker"
    assert "replicas" not in WORKLOADS["worker"]["spec"]
    assert scaled["spec"]["minReplicaCount"] == 1


def test_what_is_due_and_what_is_left_of_what_runs_is_scaled_by(emptied_engine: Engine) -> None:
    (scaled,) = of_kind("ScaledObject").values()
    (trigger,) = scaled["spec"]["triggers"]
    job = text("""
INSERT INTO transcription_jobs (id, owner_id, priority, engine_name, model_name, client_filename,
                                upload_bytes, upload_sha256, max_attempts, audio_seconds,
                                not_before, status, worker_name, progress)
SELECT gen_random_uuid(), owners.id, :priority, 'e', 'm', 'f', 1, '', 3, :seconds,
       now() + make_interval(secs => :later), :status,
       CASE WHEN :status = 'processing' THEN 'w' END, :progress
  FROM owners
""")
    usual = {"priority": "normal", "seconds": 100, "later": 0, "status": "pending", "progress": 0}
    with emptied_engine.begin() as connection:
        ask = text(trigger["metadata"]["query"])
        assert connection.scalar(ask) == 0
        connection.execute(text("INSERT INTO owners (id, name) VALUES (gen_random_uuid(), 'a')"))
        for values in (
            {},
            {"status": "processing", "progress": 0.75},
            {"later": 600},
            {"priority": "high"},
            {"seconds": None},
        ):
            connection.execute(job, usual | values)
        connection.execute(text("INSERT INTO paused_queues (name) VALUES ('high')"))

        # one that is due, a quarter of one that runs, and a guess where nobody knows
        assert connection.scalar(ask) == 100 + 25 + 60


# Schemas


def built() -> Iterator[tuple[str, list[Thing]]]:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, whose kustomize builds these")
    for folder in KUSTOMIZATIONS:
        done = subprocess.run(
            ["kubectl", "kustomize", folder], cwd=FOLDER, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        yield folder, list(yaml.safe_load_all(done.stdout))


def test_kustomize_builds_them() -> None:
    for folder, found in built():
        assert found, folder
        for thing in found:
            if thing["kind"] in {"Deployment", "Job"}:
                labels = thing["spec"]["template"]["metadata"]["labels"]
                assert labels["app.kubernetes.io/part-of"] == "transcription"


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_they_are_what_kubernetes_schemas_say(version: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate, which has the schemas"
    )
    for thing in things():
        if thing["apiVersion"].split("/")[0] in {"keda.sh", "monitoring.coreos.com"}:
            continue  # their kinds are not Kubernetes' own
        validate.validate(thing, version, strict=True)
