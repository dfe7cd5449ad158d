"""Whether what a container of this image runs is well, for Docker and compose. Standard library only.

Process 1 says what to ask: `ray start` its node's agent (which answers for the head's store too), `clipmill serve` its
own /health. Any other command is well while it runs. Exit code 1, and why on stderr, where the answer is not 200.
"""

import http.client
import sys
import urllib.request
from pathlib import Path

AGENT_PORT = "52365"  # Ray's default of --dashboard-agent-listen-port
PAGE_PORT = "8000"  # of `clipmill serve`


def url_of(words: list[str]) -> str | None:
    """Where to ask about the process with this command line; None where there is nobody to ask."""
    if "start" in words and any(Path(word).name == "ray" for word in words):
        return f"http://127.0.0.1:{_option(words, '--dashboard-agent-listen-port', AGENT_PORT)}/api/healthz"
    if "serve" in words and any(Path(word).name == "clipmill" for word in words):
        return f"http://127.0.0.1:{_option(words, '--port', PAGE_PORT)}/health"
    return None


def _option(words: list[str], name: str, default: str) -> str:
    for word, after in zip(words, [*words[1:], default], strict=True):
        if word == name:
            return after
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return default


def main(command_line: Path = Path("/proc/1/cmdline")) -> int:
    words = command_line.read_bytes().decode().split("\0")
    # A shell that stays in front of its command: `sh -c "ray start …"`.
    url = url_of([part for word in words for part in word.split()])
    if url is None:
        return 0
    try:
        with urllib.request.urlopen(url, timeout=8) as answer:
            answer.read()
    # No connection, no answer in time, a status that is none of 2xx, or somebody who does not speak HTTP.
    except (OSError, http.client.HTTPException) as error:
        print(f"{url}: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
