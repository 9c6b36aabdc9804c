"""Where the work runs: one typed setting; TLS; what SLURM and Kubernetes would be told."""

import contextlib
import datetime
import ipaddress
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask_kubernetes.operator import kubecluster
from kubernetes.client import models as kubernetes_models

from flows.cluster import LazyCluster, cluster_of, executor
from schemas.cluster import Address, Kubernetes, Local, Slurm, dask_cluster
from schemas.errors import RecipeError, WorkerError
from tasks.build import InProcess
from tasks.fanout import credentials, local_executor, remote_executor, slurm_cluster
from tasks.query.dataset import open_dataset
from tests.conftest import Mill, dask_scheduler, free_port, recipe_of

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def test_one_setting_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "slurm.yaml").write_text("kind: slurm\nworkers: 8\npartition: cpu\n")
    assert cluster_of() == Local(workers=1)
    assert cluster_of("local", workers=3, memory_mib=512) == Local(workers=3, memory_mib=512)
    assert cluster_of("tcp://host:8786") == Address(scheduler="tcp://host:8786")
    assert cluster_of(scheduler="tls://host:1", tls="x") == Address(scheduler="tls://host:1", tls="x")
    assert cluster_of("slurm") == Slurm()
    assert cluster_of(str(tmp_path / "slurm.yaml"), workers=2) == Slurm(workers=2, partition="cpu")
    content = {"kind": "kubernetes", "claim": "data"}
    assert cluster_of(content, workers=4) == Kubernetes(claim="data", workers=4)


def test_workers_start_ahead_once_and_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    going = threading.Event()

    @contextlib.contextmanager
    def started(cluster: Local) -> Generator[Any]:
        going.wait(10)
        events.append(f"start {cluster.workers}")
        yield SimpleNamespace(lost=False, memory_limit=cluster.workers)
        events.append(f"end {cluster.workers}")

    monkeypatch.setattr("flows.cluster._started", started)
    with executor(Local(workers=3)) as found:
        assert isinstance(found, LazyCluster)
        found.prepare()
        assert events == []  # nobody waits for it
        going.set()
        assert found.memory_limit == 3
        found.leave()
    assert events == ["start 3", "end 3"]
    with pytest.raises(WorkerError, match="ended"):
        found.start()
    with executor(Local(workers=4)):  # none was needed
        pass
    going.clear()
    with executor(Local(workers=5)) as found:
        assert isinstance(found, LazyCluster)
        found.prepare()
        threading.Timer(0.2, going.set).start()  # the block ends before they are there: they end too
    assert events[2:] in ([], ["start 5", "end 5"])
    with executor(Local(workers=0)) as found:
        assert isinstance(found, InProcess)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"kind": "slurm", "wokers": 2}, "did you mean 'workers'"),
        ({"kind": "local", "workers": -1}, "workers: .*greater than or equal to 0"),
        ({"kind": "kubernetes"}, "claim: .*required"),
        ({"kind": "mesos"}, "mesos"),
        ("nowhere.yaml", "no such kind or file"),
        ("http://host:1", "scheduler"),
        ({"kind": "slurm", "walltime": "a day"}, "walltime"),
        ({"kind": "kubernetes", "claim": "c", "name": "Upper Case"}, "name"),
        (["local"], "a cluster is a mapping"),
    ],
)
def test_errors_name_field_and_remedy(setting: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as found:
        cluster_of(setting)
    assert found.value.remedy


def test_certificates_are_for_an_address() -> None:
    with pytest.raises(RecipeError, match="--tls"):
        cluster_of("slurm", tls="folder")


def certificates(folder: Path) -> Path:
    """An authority, and a certificate of it for 127.0.0.1, in the files that `--tls` takes."""
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"binmill {folder.name}")])

    def builder(subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(public)
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )  # fmt: skip

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root = (
        builder(name, authority.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(usage, True).add_extension(identifier, False)
    )  # fmt: skip
    end = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(pem))
    (folder / "cert.pem").write_bytes(end.sign(authority, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, plain, serialization.NoEncryption()))
    return folder


def test_a_scheduler_behind_tls(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    address = f"tls://127.0.0.1:{free_port()}"
    options = [
        f"--tls-{name}={ours / file}"
        for name, file in (("ca-file", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))
    ]
    with dask_scheduler(address, *options):
        with remote_executor(address, tls=str(ours)) as executor:
            found = mill(recipe_of(corpus), tmp_path / "remote", executor)
        assert found.digest == open_dataset(small).manifest.digest
        with pytest.raises(WorkerError, match="who takes our certificate"), remote_executor(address, 3, str(others)):
            pass
        with pytest.raises(WorkerError, match="certificates are needed") as told, remote_executor(address, 3):
            pass
        assert "--tls" in told.value.remedy
        with pytest.raises(WorkerError, match="no Dask scheduler"), remote_executor(address.replace("tls", "tcp"), 3):
            pass
    with pytest.raises(WorkerError, match=r"ca\.pem is not there"), remote_executor(address, 3, str(tmp_path)):
        pass


def knock(host: str, port: int) -> None:
    """Ask for a TLS connection without a certificate of one's own, and for an answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), 5) as plain, context.wrap_socket(plain) as secure:
        secure.settimeout(10)
        if not secure.recv(1):  # TLS 1.3 says with its first answer that a certificate was wanted
            raise ConnectionResetError


def test_a_local_cluster_lets_nobody_else_in() -> None:
    with local_executor(1) as executor:
        assert executor.address.startswith("tls://127.0.0.1:")
        host, _, port = executor.address.removeprefix("tls://").partition(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            knock(host, int(port))
        with pytest.raises(WorkerError), remote_executor(executor.address.replace("tls", "tcp"), 2):
            pass


def test_slurms_job_is_what_was_set(tmp_path: Path) -> None:
    setting = Slurm(
        workers=3, memory_mib=2048, walltime="1-00:30:00", partition="cpu", account="lab", directives=("--exclusive",),
        prologue=("module load gcc",), log_directory=str(tmp_path), python="/shared/bin/python",
    )  # fmt: skip
    cluster = slurm_cluster(setting, credentials(str(certificates(tmp_path / "tls"))))
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    lines = script.splitlines()
    assert lines[0].startswith("#!")
    for line in ("-p cpu", "-A lab", "-n 1", "--cpus-per-task=1", "--mem=2G", "-t 1-00:30:00", "--exclusive"):
        assert f"#SBATCH {line}" in lines, line
    assert lines.index("module load gcc") < next(n for n, line in enumerate(lines) if "distributed.cli" in line)
    assert any(line.startswith("export PYTHONPATH=") and str(ROOT) in line for line in lines)
    command = shlex.split(lines[-1])
    assert command[0] == "/shared/bin/python"
    assert command[command.index("--nthreads") + 1] == "1"
    assert any(part.startswith("tls://") for part in command)
    assert command[command.index("--tls-ca-file") + 1] == str(tmp_path / "tls" / "ca.pem")
    assert "PRIVATE" not in script


def models(value: Any, kind: str, where: str) -> list[str]:
    """What is wrong with a value that Kubernetes' own client would take as of a type: unknown keys, wrong types."""
    if match := re.fullmatch(r"[Ll]ist\[(.*)\]", kind):
        return [w for n, one in enumerate(value) for w in models(one, match[1], f"{where}[{n}]")]
    if match := re.fullmatch(r"[Dd]ict[(\[](\w+), (\w+)[)\]]", kind):
        return [w for name, one in value.items() for w in models(one, match[2], f"{where}.{name}")]
    known: Any = getattr(kubernetes_models, kind, None)
    if known is None:
        types: dict[str, Any] = {"str": str, "int": int, "bool": bool, "object": object, "float": float}
        return [] if isinstance(value, types[kind]) else [f"{where}: {value!r} is no {kind}"]
    names = {json_name: name for name, json_name in known.attribute_map.items()}
    wrong = [f"{where}: unknown key {key}" for key in value if key not in names]
    for key, one in value.items():
        if key in names:
            wrong += models(one, known.openapi_types[names[key]], f"{where}.{key}")
    return wrong


def definitions() -> dict[str, Any]:
    """Schemas of the Dask operator's resource definitions; what they take from Kubernetes is checked by `models`."""
    folder = Path(kubecluster.__file__).parent.parent / "customresources"
    templates = yaml.safe_load((folder / "templates.yaml").read_text())["definitions"]

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                name = node["$ref"].rpartition("/")[2]
                return resolved(templates[name]) if name in templates else {"type": "object"}
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    definition = yaml.safe_load((folder / "daskcluster.yaml").read_text())
    return resolved(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def check_dask_cluster(resource: dict[str, Any]) -> None:
    jsonschema.validate(resource, definitions())
    spec = resource["spec"]
    assert models(spec["worker"]["spec"], "V1PodSpec", "worker") == []
    assert models(spec["scheduler"]["spec"], "V1PodSpec", "scheduler") == []
    assert models(spec["scheduler"]["service"], "V1ServiceSpec", "service") == []


def test_the_operators_resource_is_valid() -> None:
    resource = dask_cluster(Kubernetes(claim="shared", name="mill", workers=7, memory_mib=8192, cpu=2, mount="/sets"))
    check_dask_cluster(resource)
    assert resource["spec"]["worker"]["replicas"] == 7
    container = resource["spec"]["worker"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"memory": "8192Mi"}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/sets"}]
    # The check can fail.
    container["imaage"] = "x"
    assert models(resource["spec"]["worker"]["spec"], "V1PodSpec", "w") == ["w.containers[0]: unknown key imaage"]
    del resource["spec"]["scheduler"]["service"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource, definitions())


def test_the_manifest_to_apply_is_the_settings() -> None:
    claim, policy, resource = yaml.safe_load_all((DEPLOY / "kubernetes" / "cluster.yaml").read_text())
    assert resource == dask_cluster(Kubernetes(claim=claim["metadata"]["name"]))
    check_dask_cluster(resource)
    assert models(claim, "V1PersistentVolumeClaim", "claim") == []
    assert models(policy, "V1NetworkPolicy", "policy") == []
    assert policy["spec"]["podSelector"]["matchLabels"] == {"dask.org/cluster-name": resource["metadata"]["name"]}


def test_no_kubernetes_in_reach_is_said_so(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    code = (
        "from schemas.cluster import Kubernetes\nfrom tasks.fanout import kubernetes_executor\n"
        "with kubernetes_executor(Kubernetes(claim='data')): pass"
    )
    done = subprocess.run(  # of its own: the client that found nothing warns as it goes
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, timeout=120,
        cwd=ROOT, env=os.environ | {"KUBECONFIG": str(tmp_path / "config"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "no cluster in reach" in done.stderr
    assert "check kubectl" in done.stderr


def test_the_image_is_pinned_and_not_roots() -> None:
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    for line in words:
        if line[:1] == ["COPY"]:
            assert all((ROOT / source).exists() for source in line[1:-1]), line
    text = " ".join(" ".join(line) for line in words)
    assert "--require-hashes -r deploy/constraints.txt" in text
    assert "--no-deps --no-build-isolation -e ." in text
    users = [line[1] for line in words if line[:1] == ["USER"]]
    assert users == ["1000"]
    assert words[-1][0] == "CMD"
