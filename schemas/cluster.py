"""Where a run's work is done: one typed setting, for the command line and for Prefect's deployments alike."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from schemas.recipe import Model

MIB = Annotated[int, Field(ge=256)]
WORKERS = 2


class Local(Model):
    """Dask workers of this machine, on loopback; 0 runs all in the flow's own process, without Dask."""

    kind: Literal["local"] = "local"
    workers: int = Field(default=WORKERS, ge=0)
    memory_mib: MIB | None = None
    """Memory of each worker; by default the machine's shared out."""


class Address(Model):
    """A Dask scheduler that is already there, over a shared folder."""

    kind: Literal["address"] = "address"
    scheduler: str = Field(pattern=r"^(tcp|tls)://.+:\d+$")
    tls: str | None = None
    """Folder of ca.pem, cert.pem and key.pem, for a scheduler at tls://."""


class Slurm(Model):
    """A scheduler here, and workers as SLURM's jobs (dask-jobqueue)."""

    kind: Literal["slurm"] = "slurm"
    workers: int = Field(default=WORKERS, ge=1)
    memory_mib: MIB = 4096
    walltime: str = Field(default="08:00:00", pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")
    partition: str | None = None
    account: str | None = None
    interface: str | None = None
    """Network interface that the scheduler and the workers meet on, as `ib0`."""
    directives: tuple[str, ...] = ()
    """More `#SBATCH` lines, as `--constraint=avx512`."""
    prologue: tuple[str, ...] = ()
    """Shell lines before each worker, as `source /shared/venv/bin/activate`."""
    log_directory: str | None = None
    python: str | None = None
    """Interpreter on the nodes; by default this one's path."""


class Kubernetes(Model):
    """Scheduler and workers as pods of the Dask operator (dask-kubernetes)."""

    kind: Literal["kubernetes"] = "kubernetes"
    name: str = Field(default="binmill", pattern=r"^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$")
    namespace: str = "default"
    image: str = "binmill:0.1.0"
    workers: int = Field(default=WORKERS, ge=1)
    memory_mib: MIB = 4096
    cpu: float = Field(default=1.0, gt=0)
    claim: str
    """PersistentVolumeClaim, ReadWriteMany, that holds dataset and cache."""
    mount: str = Field(default="/data", pattern=r"^/.+")
    """Where the claim is mounted; the flow sees it at the same path."""


Cluster = Annotated[Local | Address | Slurm | Kubernetes, Field(discriminator="kind")]
KINDS = ("local", "address", "slurm", "kubernetes")
CLUSTER: TypeAdapter[Any] = TypeAdapter(Cluster)


def pod_spec(cluster: Kubernetes, role: Literal["scheduler", "worker"]) -> dict[str, Any]:
    """The pod of a scheduler or worker: no privileges, a memory limit, the claim at its path."""
    memory = f"{cluster.memory_mib}Mi"
    ports = {"scheduler": [("tcp-comm", 8786), ("http-dashboard", 8787)], "worker": [("http-dashboard", 8788)]}[role]
    command = {
        "scheduler": ["dask", "scheduler", "--host", "0.0.0.0"],  # noqa: S104 # within its pod
        "worker": [
            "dask", "worker", "--nthreads", "1", "--memory-limit", f"{cluster.memory_mib}MiB",
            "--name", "$(DASK_WORKER_NAME)", "--dashboard-address", "8788",
        ],
    }[role]  # fmt: skip
    container: dict[str, Any] = {
        "name": role,
        "image": cluster.image,
        "args": command,
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "resources": {
            "requests": {"cpu": str(cluster.cpu), "memory": memory},
            "limits": {"memory": memory},
        },
        "volumeMounts": [{"name": "data", "mountPath": cluster.mount}],
        "securityContext": {
            "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
    if role == "scheduler":
        health = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "periodSeconds": 5}
        container |= {"readinessProbe": health, "livenessProbe": {**health, "initialDelaySeconds": 15}}
    return {
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": cluster.claim}}],
        "automountServiceAccountToken": False,
    }


def dask_cluster(cluster: Kubernetes) -> dict[str, Any]:
    """The operator's resource `DaskCluster` (kubernetes.dask.org/v1) of a setting."""
    selector = {"dask.org/cluster-name": cluster.name, "dask.org/component": "scheduler"}
    ports = [("tcp-comm", 8786), ("http-dashboard", 8787)]
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": cluster.name, "namespace": cluster.namespace},
        "spec": {
            "idleTimeout": 0,
            "worker": {"replicas": cluster.workers, "spec": pod_spec(cluster, "worker")},
            "scheduler": {
                "spec": pod_spec(cluster, "scheduler"),
                "service": {
                    "type": "ClusterIP",  # within the cluster only
                    "selector": selector,
                    "ports": [{"name": n, "protocol": "TCP", "port": p, "targetPort": n} for n, p in ports],
                },
            },
        },
    }
