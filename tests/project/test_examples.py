"""The examples, tried as far as one machine can: units and manifests checked, command lines parsed."""

import ast
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.cli import cli
from pipeline.app.config.sections import StateSection
from pipeline.reporting.words import _MEANING

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = "/opt/canvas-ingest/bin/canvas-ingest"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text()


def _crontab() -> Iterator[list[str]]:
    for line in text_of("crontab").splitlines():
        if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line):
            *when, what = line.split(maxsplit=5)
            assert all(re.fullmatch(r"[0-9*/,-]+", field) for field in when)
            assert "%" not in what, "cron takes it for a line's end"
            yield shlex.split(what)


def _unit(name: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text_of(name).splitlines() if line[:1].isalpha())
    return {key: value for key, _, value in pairs}


def _manifests(name: str = "cronjob.yaml") -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="make checks installs it")
    return list(yaml.safe_load_all(text_of(name)))


def _pod(name: str = "cronjob.yaml") -> dict[str, Any]:
    """Of the CronJob, which is the last."""
    pod: dict[str, Any] = _manifests(name)[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


def _cronjob(name: str = "cronjob.yaml") -> Iterator[list[str]]:
    container = _pod(name)["containers"][0]
    yield [*container["command"], *container["args"]]


def _join() -> Iterator[list[str]]:
    container = _manifests("join.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
    yield [*container["command"], *container["args"]]


def _python(name: str) -> Iterator[list[str]]:
    for node in ast.walk(ast.parse(text_of(name))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMAND":
            yield ast.literal_eval(node.value)
        if isinstance(node, ast.keyword) and node.arg == "bash_command":
            yield shlex.split(ast.literal_eval(node.value))[1:]  # after exec


COMMANDS: dict[str, tuple[Callable[[], Iterator[list[str]]], int]] = {
    "crontab": (_crontab, 2),
    "canvas-ingest.service": (
        lambda: iter([shlex.split(_unit("canvas-ingest.service")["ExecStart"])]),
        1,
    ),
    "cronjob.yaml": (_cronjob, 1),
    "join.yaml": (_join, 1),
    "cluster.yaml": (lambda: _cronjob("cluster.yaml"), 1),
    "airflow_dag.py": (lambda: _python("airflow_dag.py"), 2),
    "dagster_asset.py": (lambda: _python("dagster_asset.py"), 1),
    "prefect_flow.py": (lambda: _python("prefect_flow.py"), 1),
}

UNITS = (
    "canvas-ingest.service",
    "canvas-ingest.timer",
    "dask-scheduler.service",
    "dask-worker.service",
)


@pytest.fixture
def at_night(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone in which it is between two and three: `--until 05:30` is then to come."""
    monkeypatch.setenv("TZ", f"NIGHT{datetime.now(UTC).hour - 2:+d}")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_line_is_one_of_ours(name: str, at_night: None) -> None:
    find, count = COMMANDS[name]
    commands = list(find())
    assert len(commands) == count
    for program, *arguments in commands:
        assert program in {PROGRAM, "canvas-ingest"}
        group = cli.make_context("canvas-ingest", list(arguments))
        command_name, command, rest = cli.resolve_command(group, arguments)
        assert command is not None
        with command.make_context(command_name, rest, parent=group) as context:
            assert str(context.params["config"]) == "/etc/canvas-ingest/nightly.toml"


def test_every_example_is_tried() -> None:
    by_test_cluster = {"dask.yaml", "cluster-certificates"}
    by_other_tests = {"openlineage_event.py", "script.py"}  # test_orchestrators.py, test_types.py
    tried = {*COMMANDS, *UNITS, "Containerfile", *by_test_cluster, *by_other_tests}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tried


@needs_systemd
def test_the_units_hold_no_unknown_key(tmp_path: Path) -> None:
    for name in UNITS:
        text = text_of(name).replace(PROGRAM, "/bin/true")
        (tmp_path / name).write_text(text.replace("/opt/canvas-ingest/bin/dask", "/bin/true"))
    assert _verified(tmp_path) == (0, "")
    service = tmp_path / "canvas-ingest.service"
    service.write_text(service.read_text().replace("KillMode", "KilMode"))
    code, said = _verified(tmp_path)
    assert code != 0, "a fault is seen"
    assert "KilMode" in said


def _verified(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--recursive-errors=no",
            "--man=no",
            *sorted(folder.iterdir()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@needs_systemd
def test_the_timer_has_a_calendar() -> None:
    when = _unit("canvas-ingest.timer")["OnCalendar"]
    subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, check=True)


_VERSIONS = [f"1.{minor}" for minor in range(27, 37)]


@pytest.mark.parametrize("version", _VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="make checks installs it")
    (joining,) = _manifests("join.yaml")
    assert (joining["kind"], joining["spec"]["completionMode"]) == ("Job", "Indexed")
    kubernetes.validate(joining, version, strict=False)  # per-index limits came with 1.29
    manifests = _manifests()
    assert [each["kind"] for each in manifests] == [
        "PersistentVolumeClaim",
        "NetworkPolicy",
        "CronJob",
    ]
    for manifest in manifests:
        kubernetes.validate(manifest, version, strict=True)
    manifests[-1]["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(manifests[-1], version, strict=True)


@pytest.mark.parametrize("name", ["cronjob.yaml", "cluster.yaml"])
def test_the_cronjob_says_what_becomes_of_each_exit_code(name: str) -> None:
    job = _manifests(name)[-1]["spec"]["jobTemplate"]["spec"]
    stay = job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert set(_MEANING) - {0} - set(stay) == {1, 130}, "these are tried again"
    assert _pod(name)["restartPolicy"] == "Never", "a podFailurePolicy needs it"


def test_the_grace_is_long_enough_for_what_is_in_flight() -> None:
    """The default of canvas.timeout_s, a minute for a large report, and the notice's timeout."""
    enough_s = 30 + 60 + 10
    assert int(_unit("canvas-ingest.service")["TimeoutStopSec"]) >= enough_s
    assert _pod()["terminationGracePeriodSeconds"] >= enough_s
    leases_s = (
        2 * StateSection.model_validate({}).lease_s + 30
    )  # workers are waited for (docs/cluster.md)
    assert _pod("cluster.yaml")["terminationGracePeriodSeconds"] >= enough_s + leases_s


# A cluster in Kubernetes --------------------------------------------------------------------------


def _dask_cluster() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pods of scheduler and workers, as the operator makes them of its own resource."""
    resource = _manifests("cluster.yaml")[2]
    assert (resource["apiVersion"], resource["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    assert set(resource["spec"]) == {"scheduler", "worker"}
    assert set(resource["spec"]["worker"]) == {"replicas", "spec"}
    assert set(resource["spec"]["scheduler"]) == {"spec", "service"}
    return resource["spec"]["scheduler"]["spec"], resource["spec"]["worker"]["spec"]


@pytest.mark.parametrize("version", _VERSIONS)
def test_the_manifests_of_a_cluster_are_valid(version: str) -> None:
    """The operator's own resource by its parts: a schema of it is in no package that is locked here."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="make checks installs it")
    volume, policy, cluster, cronjob = _manifests("cluster.yaml")
    scheduler, worker = _dask_cluster()
    pods: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Pod", "spec": spec} for spec in (scheduler, worker)
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": cluster["spec"]["scheduler"]["service"],
    }
    for manifest in (volume, policy, cronjob, service, *pods):
        kubernetes.validate(manifest, version, strict=True)
    pods[0]["spec"]["securityContex"] = {}
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(pods[0], version, strict=True)


@pytest.mark.parametrize("name", ["cronjob.yaml", "cluster.yaml"])
def test_pods_are_confined(name: str) -> None:
    """No root, no token of the cluster, nothing written but to what is mounted, and a policy for their network."""
    *others, job = _manifests(name)
    pods = [_pod(name), *(_dask_cluster() if name == "cluster.yaml" else ())]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert f"{pod['securityContext']['runAsUser']}:" in text_of("Containerfile")
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/tmp"] == "tmp"  # noqa: S108 - the pod's
        assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]
    (policy,) = [each for each in others if each["kind"] == "NetworkPolicy"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    labels = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_pods_of_a_cluster_share_one_path_and_the_scheduler_has_no_secret() -> None:
    volume, policy, cluster, _ = _manifests("cluster.yaml")
    scheduler, worker = _dask_cluster()
    for pod in (scheduler, worker, _pod("cluster.yaml")):
        (container,) = pod["containers"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/etc/canvas-ingest" in mounts
        assert ("/data" in mounts) == (pod is not scheduler)
        assert ("envFrom" in container) == (pod is not scheduler)
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    label = policy["spec"]["podSelector"]["matchLabels"].items()
    assert label <= cluster["metadata"]["labels"].items()


def test_the_ports_of_a_cluster_are_open_to_its_own() -> None:
    _, policy, cluster, _ = _manifests("cluster.yaml")
    scheduler, worker = _dask_cluster()
    told = [*scheduler["containers"][0]["args"], *worker["containers"][0]["args"]]
    used = {
        int(each.rpartition("=")[2]) for each in told if re.match(r"--(worker-|nanny-)?port=", each)
    }
    assert (
        used
        == {each["port"] for each in policy["spec"]["ingress"][0]["ports"]}
        == {8786, 9000, 9001}
    )
    for name, ports in (("scheduler", {"8786"}), ("worker", {"9000", "9001"})):
        words = shlex.split(_unit(f"dask-{name}.service")["ExecStart"])
        assert {words[at + 1] for at, word in enumerate(words) if word.endswith("port")} == ports
    name = cluster["metadata"]["name"]
    address = f"tls://{name}-scheduler:8786"
    assert address in told
    assert address in _pod("cluster.yaml")["containers"][0]["args"]
    assert cluster["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == name


@pytest.mark.parametrize("kind", ["scheduler", "worker"])
def test_dask_takes_what_it_is_told(kind: str) -> None:
    """By the parsers of its own commands; tests/cluster/test_cluster.py runs what the units start."""
    module = pytest.importorskip(f"distributed.cli.dask_{kind}")
    pod = dict(zip(("scheduler", "worker"), _dask_cluster(), strict=True))[kind]
    (container,) = pod["containers"]
    unit = shlex.split(_unit(f"dask-{kind}.service")["ExecStart"])
    assert unit[0].removeprefix("/opt/canvas-ingest/bin/") == container["command"][0] == "dask"
    assert unit[1] == container["command"][1] == kind
    for arguments in (container["args"], unit[2:]):
        with module.main.make_context(kind, list(arguments)) as context:
            assert context.params["dashboard"] is False
    config = {each["name"]: each["value"] for each in container["env"]}["DASK_CONFIG"]
    assert _unit(f"dask-{kind}.service")["Environment"] == f"DASK_CONFIG={config}"


# The image ----------------------------------------------------------------------------------------


def _instructions() -> list[tuple[str, str]]:
    lines = re.sub(
        r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text_of("Containerfile"), flags=re.MULTILINE)
    )
    found = [line.partition(" ") for line in lines.splitlines() if line]
    return [(name, rest) for name, _, rest in found]


def test_the_image_is_made_of_what_is_locked_and_holds_no_secret() -> None:
    instructions = _instructions()
    names = [name for name, _ in instructions]
    assert set(names) == {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}, (
        "ADD fetches"
    )
    (base,) = [rest for name, rest in instructions if name == "ARG"]
    assert re.fullmatch(r"PYTHON=[\w./-]+:3\.11-slim-\w+", base), "a version, and never the latest"
    assert [rest for name, rest in instructions if name == "FROM"] == [
        "${PYTHON} AS built",
        "${PYTHON}",
    ]
    last = instructions[len(names) - names[::-1].index("FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    assert users == ["10001:10001"], "not root, by its number"
    assert not [rest for name, rest in last if name == "RUN"], (
        "nothing is installed as root in what is kept"
    )
    for name, rest in instructions:
        if name == "COPY" and not rest.startswith("--from"):
            assert all((EXAMPLES.parent / path).exists() for path in rest.split()[:-1])
        assert name == "RUN" or not re.search(
            r"SECRET|PASSWORD|TOKEN|_KEY|\.pem|\.toml\b(?<!pyproject\.toml)", rest
        ), rest
    installed = re.search(r'"canvas-ingest\[([\w,]+)\]"', text_of("Containerfile"))
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    assert installed is not None
    assert set(installed[1].split(",")) == set(project["optional-dependencies"])
    packaged = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "configs",
        "sample_data",
        "pipeline",
        "requirements.lock",
    }
    assert {
        path for name, rest in instructions if name == "COPY" for path in rest.split()[:-1]
    } >= packaged
    command = [rest for name, rest in last if name == "CMD"]
    assert ast.literal_eval(command[0])[0] == "canvas-ingest", (
        "a list: signals reach it without a shell"
    )


def test_whatever_an_image_runs_is_a_shell_line_that_can_be_read() -> None:
    for name, rest in _instructions():
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
