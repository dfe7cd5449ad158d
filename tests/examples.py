"""How many examples property tests draw, and which. HYPOTHESIS_PROFILE names one of:

- `patient`, the default: other examples each time.
- `gate`, of .ci/run: the same examples for the same test, so that no landing waits on another one's luck.
- `fuzz`, of `make fuzz`: twenty times as many.
"""

import os

from hypothesis import HealthCheck, settings

_USUAL = 100  # hypothesis' own number, which each count of `examples` is a part or a multiple of

# A busy machine takes longer than hypothesis' 200 ms over an example, and longer to think of one; every test has a
# timeout of its own.
settings.register_profile("patient", deadline=None, max_examples=_USUAL, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("patient"), derandomize=True)
settings.register_profile("fuzz", settings.get_profile("patient"), max_examples=20 * _USUAL)


def load_profile() -> None:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "patient")


def examples(count: int, *unchecked: HealthCheck) -> settings:
    """`count` of them, times what the profile asks for. A number given to hypothesis itself is the same in each."""
    now = settings()
    return settings(
        max_examples=count * now.max_examples // _USUAL,
        suppress_health_check=[*now.suppress_health_check, *unchecked],
    )
