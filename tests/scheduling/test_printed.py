"""Every kind is read back by a parser of its own language, and runs just the words that were meant."""

import ast
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import given

from clipmill.jobs.cli.main import build
from clipmill.jobs.cli.main import run as clipmill
from clipmill.jobs.cluster.parcel import named_on_disk
from clipmill.jobs.planning.jobfile import load_job
from clipmill.jobs.scheduling.night import KINDS, Night, caveats, files
from clipmill.schemas.errors import UserError
from tests.examples import examples
from tests.scheduling.argo import CRON_WORKFLOW, mistakes
from tests.scheduling.nights import ALL, AT_FOUR, NAMES, PODS, night, text

ADDRESS = "http://head.example:8265"


def kubernetes_reads(argument: str) -> str:
    """What Kubernetes makes of a word of `command`: $$ is a $, and $(NAME) a variable's value."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else "(a variable)", argument)


def cron_reads(line: str) -> str:
    """The command of a crontab line: a bare % ends it, \\% is one."""
    command = line.split(None, 5)[5]
    return re.sub(r"(?<!\\)%.*", "", command).replace("\\%", "%")


def systemd_reads(line: str) -> list[str]:
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert line == " ".join(f'"{word}"' for word in words)
    plain = [re.sub(r"\\(.)", r"\1", word) for word in words]
    assert not [
        word for word in plain if re.search(r"%%|\$\$", re.sub(r"%%|\$\$", "", word)) or "%" in word.replace("%%", "")
    ]
    return [word.replace("%%", "%").replace("$$", "$") for word in plain]


def words_of(made: Night) -> list[str]:
    """The command that the printed file runs, as its own language has it."""
    printed = files(made)
    if made.kind in ("cronjob", "argo", "raycronjob"):
        document = next(iter(yaml.safe_load_all(text(printed))))
        if made.kind == "raycronjob":
            return shlex.split(document["spec"]["jobTemplate"]["entrypoint"])
        return [kubernetes_reads(word) for word in command_in(document)]
    if made.kind == "systemd":
        (line,) = re.findall(r"^ExecStart=(.*)$", next(iter(printed.values())), re.M)
        return systemd_reads(line)
    if made.kind == "crontab":
        return re.findall(r"timeout -k 120 72000 (.*?) >\"\$l\"", cron_reads(text(printed).splitlines()[-1]))
    (value,) = [
        node.value
        for node in ast.parse(text(printed)).body
        if isinstance(node, ast.Assign) and "COMMAND" in ast.dump(node)
    ]
    found: list[str] = ast.literal_eval(value)
    return found


def command_in(document: Any) -> list[str]:
    spec = document["spec"]
    if document["kind"] == "CronWorkflow":
        found: list[str] = spec["workflowSpec"]["templates"][0]["container"]["command"]
        return found
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["command"]
    return command


@pytest.mark.parametrize("kind", ["systemd", "airflow", "dagster"])
@examples(60)
@given(name=NAMES, folder=NAMES)
def test_files_of_this_machine_run_the_words_that_were_meant(kind: str, name: str, folder: str) -> None:
    made = night(kind, job_file=f"/srv/{folder}/{name}.yaml", folder=f"/srv/{folder}x", table="/srv/db/images")
    program = ["/opt/clip mill/bin/clipmill"] if kind == "systemd" else ["clipmill"]
    assert words_of(made) == [*program, "nightly", f"/srv/{folder}/{name}.yaml"]


@examples(40)
@given(name=NAMES, folder=NAMES)
def test_a_crontab_line_runs_the_words_that_were_meant(tmp_path_factory, name: str, folder: str) -> None:
    """In a real shell; the time is set aside. A backslash is refused, because crons differ in it."""
    home = tmp_path_factory.mktemp("home")
    if folder in (".", ".."):
        return
    (home / folder).mkdir()
    program = home / "it's %d"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" >"$HOME/said"\nexit 3\n')
    program.chmod(0o755)
    job = f"/srv/{folder}/{name}.yaml"
    made = night(
        "crontab", job_file=job, folder=str(home / folder), program=(str(program),), table=f"/srv/{name}/db/images"
    )
    if "\\" in name + folder:
        with pytest.raises(UserError, match="backslash"):
            files(made)
        return
    line = text(files(made)).splitlines()[-1]
    command = cron_reads(line).replace('[ "$(TZ=Europe/Berlin date +%H:%M)" = 04:00 ]', "true")
    done = subprocess.run(
        ["/bin/sh", "-c", command], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, capture_output=True
    )
    assert (home / "said").read_text().splitlines() == [str(home / folder), "nightly", job]
    assert done.stdout.decode() == f"clipmill nightly for /srv/{name}/db/images ended with exit code 3\n"
    assert (done.stderr, done.returncode) == (b"", 3)


@pytest.mark.parametrize("kind", ["cronjob", "argo"])
@examples(60)
@given(name=NAMES)
def test_pods_run_the_words_that_were_meant(kind: str, name: str) -> None:
    made = night(kind, job_file=f"s3://lake/{name}.yaml", address=f"{ADDRESS}/{name}", table=f"s3://lake/{name}/images")
    if "{{" in name:
        with pytest.raises(UserError, match="template"):
            files(made)
        return
    sent = ["--address", f"{ADDRESS}/{name}", "--command", "nightly", "--follow"]
    assert words_of(made) == ["clipmill", "submit", f"s3://lake/{name}.yaml", *sent]


def test_a_job_file_on_disk_comes_to_a_pod_from_a_configmap_that_is_named() -> None:
    for kind in PODS:
        made = night(kind)
        assert "/jobs/job.yaml" in words_of(made)
        assert f"configMap: {{name: {made.name}}}" in text(files(made))
        assert any(shlex.quote(f"{made.job_file}") in said and made.name in said for said in caveats(made))


def test_what_a_job_names_on_this_disk_is_said_not_to_be_in_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = {"shoe": {"image": "shoe.jpg"}, "word": {"text": "red"}}
    job = {
        "table": "s3://lake/db/images",
        "source": {"format": "webdataset", "uri": ["raw/*.tar", "s3://lake/raw/*.tar"]},
        "nightly": {"golden": "golden.csv", "watch": watch},
    }
    for name in ("shoe.jpg", "golden.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    named = named_on_disk(load_job("job.yaml"), sent=True)
    assert [Path(path).name for path in named] == ["*.tar", "golden.csv", "shoe.jpg"]
    for kind in KINDS:
        told = [said for said in caveats(replace(night(kind), on_disk=tuple(named))) if named[1] in said]
        assert bool(told) == (kind in PODS), kind


@pytest.mark.parametrize(("kind", "address"), [("cronjob", ADDRESS), ("cronjob", None), ("raycronjob", None)])
@pytest.mark.parametrize("job_file", ["/srv/job.yaml", "s3://lake/it's {1: #}.yaml"])
def test_kubernetes_takes_what_is_printed(kube_validate: Path, tmp_path: Path, kind, address, job_file) -> None:
    (tmp_path / "it.yaml").write_text(text(files(night(kind, address=address, job_file=job_file))))
    command = [sys.executable, str(kube_validate), str(tmp_path / "it.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stderr.count(" fits") == 2, "the job and its alert"


def test_a_cron_job_does_not_overlap_nor_retry_what_no_retry_helps() -> None:
    job, alert = yaml.safe_load_all(text(files(night("cronjob", address=ADDRESS))))
    spec = job["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("0 4 * * *", "Europe/Berlin", "Forbid")
    assert spec["startingDeadlineSeconds"] > 0
    assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= set(spec)
    policy = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert (policy["action"], policy["onExitCodes"]["values"]) == ("FailJob", [2, 4])
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert policy["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    assert alert["kind"] == "PrometheusRule"


def test_a_pod_that_submits_is_let_in_by_the_standing_cluster_and_has_its_token() -> None:
    """The label of its NetworkPolicy, and the secret that the operator makes for it."""
    folder = Path(__file__).parents[2] / "deploy" / "kubernetes"
    policies = yaml.safe_load_all((folder / "base/networkpolicy.yaml").read_text())
    (policy,) = (one for one in policies if one["metadata"]["name"] == "clipmill-ray")
    cluster = yaml.safe_load((folder / "standing/raycluster.yaml").read_text())
    rules = policy["spec"]["ingress"]
    allowed = [one["podSelector"]["matchLabels"] for rule in rules for one in rule["from"] if "podSelector" in one]
    for kind in ("cronjob", "argo"):
        document = next(iter(yaml.safe_load_all(text(files(night(kind, address=ADDRESS))))))
        if kind == "argo":
            labels = document["spec"]["workflowSpec"]["podMetadata"]["labels"]
        else:
            labels = document["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        assert labels in allowed
        assert f"secretKeyRef: {{name: {cluster['metadata']['name']}, key: auth_token" in yaml_of(kind)
    assert "submits" not in text(files(night("cronjob")))


def yaml_of(kind: str) -> str:
    return text(files(night(kind, address=ADDRESS)))


@pytest.mark.parametrize(("address", "alert"), list(itertools.product([None, ADDRESS], [None, "echo '100%' $x"])))
def test_argo_gets_fields_that_its_schema_has(address: str | None, alert: str | None) -> None:
    document = yaml.safe_load(text(files(night("argo", address=address, alert=alert))))
    assert (document["apiVersion"], document["kind"]) == ("argoproj.io/v1alpha1", "CronWorkflow")
    assert mistakes(document, CRON_WORKFLOW) == []
    spec = document["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    templates = {one["name"]: one for one in spec["workflowSpec"]["templates"]}
    assert {spec["workflowSpec"]["entrypoint"], spec["workflowSpec"]["onExit"]} <= set(templates)
    assert templates["ended"]["steps"][0][0]["template"] in templates


def test_what_argo_does_not_know_is_seen() -> None:
    document = yaml.safe_load(text(files(night("argo"))))
    document["spec"]["schedule"] = document["spec"].pop("schedules")
    document["spec"]["workflowSpec"]["templates"][0]["retryStrategy"]["limit"] = 3
    document["spec"]["startingDeadlineSeconds"] = "7200"
    found = mistakes(document, CRON_WORKFLOW)
    assert ".spec.schedule is unknown" in found
    assert ".spec.startingDeadlineSeconds is a str, not a int" in found
    assert ".spec.workflowSpec.templates[0].retryStrategy.limit is a int, not a str" in found


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("cronjob", "backoffLimit: 3 "),
        ("argo", 'limit: "3"'),
        ("airflow", "retries=3,"),
        ("dagster", "max_retries=3,"),
        ("systemd", "StartLimitBurst=4\n"),  # counts the first start too
    ],
)
def test_every_kind_that_tries_again_does_so_three_times(kind: str, line: str) -> None:
    assert line in "\n".join(files(night(kind)).values())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_systemd_takes_its_units(tmp_path: Path) -> None:
    made = night("systemd", program=(sys.executable, "-m", "clipmill"), folder=str(tmp_path), alert="echo '100% $x'")
    for name, unit in files(made).items():
        (tmp_path / name).write_text(unit)
    names = [str(tmp_path / name) for name in files(made)]
    done = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("cron"), reason="Debian's cron is not here")
def test_crons_own_parser_takes_the_crontab(tmp_path: Path) -> None:
    for number, line in enumerate((AT_FOUR.cron + " true", text(files(night("crontab"))))):
        (tmp_path / str(number)).write_text(line.rstrip("\n") + "\n")
        done = subprocess.run(
            ["crontab", "-n", str(tmp_path / str(number))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    (tmp_path / "bad").write_text("99 4 * * * true\n")
    assert subprocess.run(["crontab", "-n", str(tmp_path / "bad")], capture_output=True, check=False).returncode


@pytest.mark.parametrize("kind", ["airflow", "dagster"])
def test_python_files_compile_and_name_every_guard(kind: str) -> None:
    """Neither library is a dependency, so they are not run here."""
    module = text(files(night(kind, alert="echo '100%' \"$x\"")))
    compile(module, kind, "exec")
    assert "(2, 4)" in module
    assert "Europe/Berlin" in module
    assert ("max_active_runs=1" if kind == "airflow" else "SkipReason") in module


@pytest.mark.parametrize(("kind", "address"), list(itertools.product(ALL, [None, ADDRESS])))
def test_the_real_command_line_takes_what_is_run(kind: str, address: str | None) -> None:
    if kind == "raycronjob" and address:
        return
    words = words_of(night(kind, address=address))
    if kind == "crontab":
        words = shlex.split(words[0])
    commands = build().commands
    if words[1] not in commands:
        pytest.skip(f"there is no {words[1]} yet")
    command = commands[words[1]]
    command.make_context(words[1], words[2:], parent=click.Context(build()), resilient_parsing=False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kind": "cronjob", "table": "/srv/db/images"}, "a pod's disk ends with it"),
        ({"kind": "cronjob", "address": "head:6379"}, "not where jobs are submitted"),
        ({"kind": "cronjob", "alert": "x"}, "PrometheusRule"),
        ({"kind": "raycronjob", "address": ADDRESS}, "a cluster for each night"),
        ({"kind": "crontab", "job_file": "/srv/a\nb.yaml"}, "cannot be printed"),
        ({"kind": "crontab", "job_file": "/srv/" + "a" * 700 + ".yaml"}, "so long"),
        ({"kind": "systemd", "folder": "/srv/a "}, "cannot start in"),
    ],
)
def test_what_a_kind_cannot_carry_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        files(night(**more))
    assert caught.value.hint


def test_names_are_short_labels_and_two_tables_never_share_one() -> None:
    tables = ["s3://a/db/images", "s3://b/db/images", "s3://a/db/" + "Very_Long.Name" * 9, "s3://a/db/9", "s3://a/db/_"]
    names = {night("raycronjob", table=table).name for table in tables}
    assert len(names) == len(tables)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 36 for name in names)


def test_the_command_prints_to_stdout_or_writes_files(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my job.yaml").write_text('table: s3://lake/db/images\nsource: {format: files, uri: "s3://lake/raw/"}\n')
    assert clipmill(["schedule", "my job.yaml", "--kind", "systemd", "--to", "units"]) == 0
    assert sorted(path.suffix for path in Path("units").iterdir()) == [".service", ".service", ".timer"]
    assert clipmill(["schedule", "my job.yaml", "--timezone", "Europe/Berlin", "--address", ADDRESS]) == 0
    said = capsys.readouterr()
    assert [one["kind"] for one in yaml.safe_load_all(said.out)] == ["CronJob", "PrometheusRule"]
    assert "create configmap" in said.err
    assert clipmill(["schedule", "my job.yaml", "--kind", "systemd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {path.name: path.read_text() for path in Path("units").iterdir()}
    assert clipmill(["schedule", "my job.yaml", "--at", "02:30", "--timezone", "Europe/Berlin"]) == 2
    assert "hint: choose another time" in capsys.readouterr().err
    assert clipmill(["schedule", "my job.yaml", "--address", "http://me:secret@head:8265"]) == 2
    assert "secret" not in capsys.readouterr().err.replace("credential", "")


def test_the_command_knows_every_kind() -> None:
    (option,) = [one for one in build().commands["schedule"].params if one.name == "kind"]
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(KINDS) == set(ALL)
