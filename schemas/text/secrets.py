"""What in an address is a credential, so that it can be refused where it is given and masked wherever text is shown."""

import re

# user:password before the host; a bare name before @ is Azure's way to write a container, so it passes.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]*:[^/\s]*@")
_SIGNED = re.compile(r"(?i)([?&](x-amz-(?:signature|credential|security-token)|sig|signature|awsaccesskeyid)=)[^&\s]+")
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")

_READ = 10_000  # characters; what is cut before it is masked may end within a password, which nothing tells from a host

PATTERNS = (_USERINFO.pattern, _SIGNED.pattern, _ACCESS_KEY.pattern)  # RE2 reads them too: for whole columns of Arrow

CHAIN_HINT = (
    "remove it and use the standard AWS chain: environment variables, a profile in ~/.aws, or the machine's role"
)


def secret_in(text: str) -> str | None:
    """What kind of credential the text carries, as in "it carries ..."; None for none."""
    if _USERINFO.search(text) or _ACCESS_KEY.search(text):
        return "a user name and password"
    if _SIGNED.search(text):
        return "a signature, which is a credential"
    return None


def masked(text: str) -> str:
    """The text with every credential replaced by ***."""
    text = _USERINFO.sub(r"\g<scheme>***@", text)
    return _ACCESS_KEY.sub("***", _SIGNED.sub(r"\1***", text))


def one_line(said: BaseException | str, most: int = 200) -> str:
    """What somebody else's program said, as a message may quote it: the first characters, without credentials and what
    may stand before an @ in a URL. Of an error that says nothing its class."""
    text = masked(re.sub(r"//[^/@\s]*@", "//***@", " ".join(str(said)[:_READ].split())))
    return text[:most] or type(said).__name__


def named(error: BaseException) -> str:
    """An error as the run log keeps it: its class and what it says."""
    return f"{type(error).__name__}: {masked(str(error)[:_READ])[:500]}"
