"""What is to run every night, and the files that make a scheduler run it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipmill.jobs.scheduling import quoting
from clipmill.jobs.scheduling.when import Daily
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.table_label import table_label

IN_POD = "/jobs/job.yaml"  # where the printed pods have the job file
DEADLINE_S = 20 * 3600  # a night that takes longer meets the next one
_CRON_LINE = 990  # Debian's cron takes 999 characters of a command
PODS = ("cronjob", "argo", "raycronjob")

# Kind -> its files, each from the template of the same name.
KINDS: dict[str, tuple[str, ...]] = {
    "cronjob": ("cronjob.yaml",),
    "crontab": ("crontab",),
    "systemd": ("systemd.service", "systemd.timer", "systemd-alert.service"),
    "airflow": ("airflow.py",),
    "dagster": ("dagster.py",),
    "argo": ("argo.yaml",),
    "raycronjob": ("raycronjob.yaml",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """`job_file`: absolute, or a URI. `address`: of Ray's dashboard, where nights are submitted to; None: they run
    where the scheduler starts them. `folder`: the one that relative paths in the job file start from. `program`: the
    words that start clipmill on this machine. `alert`: a shell command.
    `on_disk`: what the job names on this machine's disk."""

    kind: str
    job_file: str
    table: str
    when: Daily
    address: str | None
    image: str
    folder: str
    program: tuple[str, ...]
    alert: str | None = None
    on_disk: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return table_label(self.table)

    @property
    def mounted(self) -> bool:
        """Whether a pod gets the job file from a ConfigMap; one with a URI it reads by itself."""
        return self.kind in PODS and "://" not in self.job_file

    @property
    def words(self) -> list[str]:
        """The command without the program."""
        job = IN_POD if self.mounted else self.job_file
        if self.kind == "raycronjob":  # its own cluster
            return ["nightly", job, "--address", "auto"]
        if self.address:
            return ["submit", job, "--address", self.address, "--command", "nightly", "--follow"]
        return ["nightly", job]

    @property
    def here(self) -> list[str]:
        """The whole command, for a scheduler on this machine."""
        return [*self.program, *self.words]


def check(night: Night) -> None:
    """Raises UserError for what the kind cannot carry, or would carry wrongly."""
    for what, value in (
        ("the job file's path", night.job_file),
        ("the folder's path", night.folder),
        ("the table's address", night.table),
        ("--address", night.address or ""),
        ("--image", night.image),
        ("--alert", night.alert or ""),
    ):
        if not value.isprintable():
            raise UserError(f"{what} has characters that cannot be printed: {value!r}", "rename it")
        if night.kind in PODS and "{{" in value:
            raise UserError(f"{what} has {{{{, which starts a template there: {value}", "rename it")
        if night.kind == "crontab" and "\\" in value:
            raise UserError(
                f"{what} has a backslash, which crons read differently: {value}", "rename it, or use systemd"
            )
    if night.address and not re.match(r"https?://[^/\s]", night.address):
        raise UserError(
            f"--address {night.address} is not where jobs are submitted to",
            "write the address of Ray's dashboard, such as http://HEAD:8265",
        )
    if night.kind == "raycronjob" and night.address:
        raise UserError(
            "--address does not go with --kind raycronjob, which makes a cluster for each night",
            "leave it out, or use --kind cronjob, which submits to a cluster that is up",
        )
    if night.kind in PODS and not night.address and "://" not in night.table:
        raise UserError(
            f"the table {night.table} lies on this machine's disk, and a pod's disk ends with it",
            "name a table in a store in the job file, or use --kind crontab or systemd",
        )
    if night.kind in ("cronjob", "raycronjob") and night.alert:
        raise UserError(
            f"--alert does not go with --kind {night.kind}, which prints a PrometheusRule",
            "leave it out, and let Alertmanager do it",
        )
    if night.kind == "systemd" and (night.folder != night.folder.strip() or night.folder.endswith("\\")):
        raise UserError(f"systemd cannot start in {night.folder!r}", "start `clipmill schedule` in another folder")


def files(night: Night) -> dict[str, str]:
    """File name -> text. Raises UserError for what the kind cannot carry."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    check(night)
    environment = Environment(  # noqa: S701 - no HTML; every value passes through a filter of quoting.py
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "shell": quoting.shell,
        "crontab": quoting.crontab,
        "yaml": quoting.yaml,
        "kube": quoting.kube,
        "systemd": quoting.systemd,
        "systemd_path": quoting.systemd_path,
        "python": quoting.python,
    }
    environment.filters.update(filters)
    made = {}
    for template in KINDS[night.kind]:
        text = environment.get_template(f"{template}.j2").render(
            night=night, when=night.when, name=night.name, words=night.words, deadline_s=DEADLINE_S
        )
        if night.kind == "crontab" and max(map(len, text.splitlines())) > _CRON_LINE:
            raise UserError("the paths are so long that cron would cut the line", "use --kind systemd")
        made[_file_name(template, night.name)] = text
    return made


def _file_name(template: str, name: str) -> str:
    """`systemd-alert.service` -> `NAME-alert.service`, `cronjob.yaml` -> `NAME.yaml`."""
    kind, dot, ending = template.partition(".")
    if ending == "py":  # a module
        return f"{name.replace('-', '_')}.py"
    return f"{name}-alert.{ending}" if kind.endswith("-alert") else f"{name}{dot}{ending}" if dot else f"{name}.crontab"


def caveats(night: Night) -> list[str]:
    """What the printed file does not say, and its user should know."""
    said = []
    if night.kind in PODS and night.image.startswith("REGISTRY/"):
        said.append(
            "REGISTRY stands for yours: --image REGISTRY/clipmill@sha256:… names what is made of deploy/Dockerfile"
        )
    if night.mounted:
        said.append(
            f"the pod reads the job file from a ConfigMap: kubectl create configmap {night.name} "
            f"--from-file=job.yaml={quoting.shell(night.job_file)}"
        )
    if night.kind in PODS and night.on_disk:
        said.append(
            f"the job names what lies on this machine's disk, and the pod has none of it: {', '.join(night.on_disk)}; "
            "put it into the store, or mount it under the same name"
        )
    if night.kind in PODS and night.kind != "raycronjob" and not night.address:
        said.append("without --address the night runs in the pod itself, with what its requests give it")
    if night.kind == "raycronjob":
        said.append(
            "RayCronJob is alpha and off by default; it starts a run for every missed tick, all at once, and only the "
            "table's lease keeps them apart (the second ends with 5). --kind cronjob knows better"
        )
    if night.kind == "crontab":
        said.append(
            "cron mails what a night that did not end well prints to the crontab's owner, if this machine sends mail; "
            "--alert COMMAND runs something else as well"
        )
    return said
