"""What a table says of vectors that were imported: the provenance in their fingerprint has it.

`imported`: in which form they came. `proof`: proven (a sample of pictures was embedded again by the model and gave the
same vectors) or unproven; `proof_detail`: how many, and how near, or what is missing.
"""

from dataclasses import replace

from clipmill.schemas.columns import FINGERPRINT_KEY
from clipmill.schemas.model import Fingerprint

PROVEN, UNPROVEN = "proven", "unproven"
_KEY, _DETAIL, _FORM = "proof", "proof_detail", "imported"


def marked(fingerprint: Fingerprint, form: str, state: str, detail: str) -> Fingerprint:
    """The fingerprint with what was shown of the vectors. Who computed them, and how exactly, nobody here knows."""
    kept = {name: value for name, value in fingerprint.provenance.items() if name in ("preprocess_from", "activation")}
    said = {"precision": "of whoever computed them", _FORM: form, _KEY: state, _DETAIL: detail}
    return replace(fingerprint, provenance={**kept, **said})


def metadata(fingerprint: Fingerprint) -> dict[str, str]:
    """As the field's metadata has it."""
    return {FINGERPRINT_KEY.decode(): fingerprint.to_json()}


def is_unproven(fingerprint: Fingerprint) -> bool:
    return fingerprint.provenance.get(_KEY) == UNPROVEN


def proof_of(fingerprint: Fingerprint) -> str:
    """`proven: …` or `unproven: …` of imported vectors; empty of those that clipmill computed."""
    state = fingerprint.provenance.get(_KEY)
    return f"{state}: {fingerprint.provenance.get(_DETAIL, '')}" if state else ""


def warning(fingerprint: Fingerprint) -> str:
    """One sentence for whoever relies on unproven vectors; empty where there is no need."""
    if not is_unproven(fingerprint):
        return ""
    named = f"{fingerprint.model} {fingerprint.pretrained}".strip()
    return (
        f"unproven: these vectors were imported as those of {named}, and that was not shown "
        f"({fingerprint.provenance.get(_DETAIL, '')})"
    )
