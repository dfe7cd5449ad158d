"""Who holds a lease, as far as it can be known: the value of the lease key.

No wall clock, host name or process id decides anything alone. A clock may be wrong by hours, two pods of one node have
the same host name and both a process 7. That a holder is dead is known only for a process of this boot of this machine
and of this process-id namespace; of every other one only that its value has not changed for a term, by the own clock.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

TTL_S = 30.0


def boot_id() -> str:
    """Names this boot of this machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Names the set of processes within which a process id means something; each container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_start(pid: int) -> str:
    """The process's start time in clock ticks, so that a reused pid is not taken for the old process; empty where it
    cannot be read, "dead" for one that waits to be reaped."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if values[0] in "ZX" else values[19]
    except (OSError, IndexError):
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """`beat` counts the renewals, so that no two values are equal. `at`: the holder's wall clock, for people only.
    `until`: 0 after it was given back (what an older clipmill wrote besides, the end by its clock, is not looked at).
    """

    run: str
    epoch: int
    beat: int = 0
    ttl_s: float = TTL_S
    until: float | None = None
    at: str = ""
    host: str = ""
    pid: int = 0
    pid_ns: str = ""
    boot: str = ""
    started: str = ""
    command: str = ""

    @staticmethod
    def parse(text: str | None) -> "Holder | None":
        """Of what is stored; a newer clipmill's other fields are left out."""
        raw = json.loads(text) if text else None
        names = {one.name for one in fields(Holder)}
        return Holder(**{name: value for name, value in raw.items() if name in names}) if raw else None

    def text(self) -> str:
        return json.dumps(asdict(self))

    def is_released(self) -> bool:
        return self.until == 0

    def is_dead(self) -> bool:
        """True only where it can be known: same boot, same process-id namespace, and that process is gone."""
        here = (boot_id(), pid_namespace())
        if not all(here) or (self.boot, self.pid_ns) != here or not self.started:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # somebody else's, but there
        return process_start(self.pid) not in ("", self.started)

    def describe(self) -> str:
        return f"`clipmill {self.command}` (run {self.run}, process {self.pid} on {self.host})"
