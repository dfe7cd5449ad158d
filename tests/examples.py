"""How many examples property tests draw, and which. HYPOTHESIS_PROFILE names one of:

- `patient`, the default: other examples each time.
- `gate`, of .ci/run: the same examples for the same test, so that no landing waits on another one's luck.
- `fuzz`, of `make fuzz`: twenty times as many.
"""

import os

from hypothesis import HealthCheck, settings

try:
    from hypothesis.internal.conjecture import providers
except ImportError:  # the lowest version draws from its strategies alone
    providers = None

_USUAL = 100  # hypothesis' own number, which each count of `examples` is a part or a multiple of

# A busy machine takes longer than hypothesis' 200 ms over an example, and longer to think of one; every test has a
# timeout of its own. Where hypothesis takes the machine for a CI server, its own default would be derandomized.
settings.register_profile(
    "patient", deadline=None, max_examples=_USUAL, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("gate", settings.get_profile("patient"), derandomize=True)
settings.register_profile("fuzz", settings.get_profile("patient"), max_examples=20 * _USUAL)


# Newer ones also draw words and numbers that stand in whatever module is loaded by then: good for looking, but the
# examples of `gate` would follow other tests and each commit (findings/hypothesis-derandomized-draws-from-the-code.sh).
_words_of_the_code = getattr(providers, "_get_local_constants", None)


def load_profile() -> None:
    name = os.environ.get("HYPOTHESIS_PROFILE") or "patient"
    settings.load_profile(name)
    if _words_of_the_code is not None:
        none = providers.Constants()
        providers._get_local_constants = (lambda: none) if name == "gate" else _words_of_the_code


def examples(count: int, *unchecked: HealthCheck) -> settings:
    """`count` of them, times what the profile asks for. A number given to hypothesis itself is the same in each."""
    now = settings()
    return settings(
        max_examples=count * now.max_examples // _USUAL,
        suppress_health_check=[*now.suppress_health_check, *unchecked],
    )
