"""The part of Argo's published schema that our manifest uses: api/jsonschema/schema.json of argoproj/argo-workflows,
read on 2026-11-28 at f016ad89 (August 2026). A field that is not here has to be looked up there first."""

from typing import Any

LABELS = {"*": str}
CONTAINER = {
    "image": str,
    "command": [str],
    "env": [{"name": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str, "optional": bool}}}],
    "resources": {"requests": LABELS, "limits": LABELS},
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
TEMPLATE = {
    "name": str,
    "container": CONTAINER,
    "retryStrategy": {"limit": str, "expression": str, "backoff": {"duration": str, "factor": str}},
    "steps": [[{"name": str, "template": str, "when": str}]],
}
CRON_WORKFLOW = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "schedules": [str],
        "timezone": str,
        "concurrencyPolicy": str,
        "startingDeadlineSeconds": int,
        "successfulJobsHistoryLimit": int,
        "failedJobsHistoryLimit": int,
        "workflowSpec": {
            "entrypoint": str,
            "onExit": str,
            "activeDeadlineSeconds": int,
            "serviceAccountName": str,
            "podMetadata": {"labels": LABELS},
            "securityContext": {"runAsNonRoot": bool, "runAsUser": int},
            "volumes": [{"name": str, "configMap": {"name": str}}],
            "templates": [TEMPLATE],
        },
    },
}


def mistakes(value: Any, schema: Any, path: str = "") -> list[str]:
    """Each place where `value` has a field that Argo does not know, or another kind of value than it asks for."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [told for number, one in enumerate(value) for told in mistakes(one, schema[0], f"{path}[{number}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{path} is no mapping"]
        unknown = [f"{path}.{name} is unknown" for name in value if name not in schema and "*" not in schema]
        known = {name: schema.get(name, schema.get("*")) for name in value}
        return unknown + [
            told
            for name, one in value.items()
            if known[name] is not None
            for told in mistakes(one, known[name], f"{path}.{name}")
        ]
    return [] if type(value) is schema else [f"{path} is a {type(value).__name__}, not a {schema.__name__}"]
