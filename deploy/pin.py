"""Fills in the digests of images, as the registry has them now; needs docker with buildx and a way to the registries.

    python deploy/pin.py                                   base images of the Dockerfile, and compose's S3 server
    python deploy/pin.py --image REGISTRY/clipmill:TAG     also the image of all pods and of `ray up`, once it is pushed

A tag stays beside its digest for people to read (`python:3.11.14-slim-bookworm@sha256:…`); a second call moves the
digest to what the tag is then. Nothing is written where one image cannot be asked for.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
# File -> what names an image by an exact tag there, perhaps with a digest behind it.
TAGGED = {
    "Dockerfile": re.compile(r"^(FROM )([a-z0-9./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?(?= AS)", re.M),
    "compose.yaml": re.compile(r"^(    image: )([a-z0-9./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?$", re.M),
}
OURS = {
    "kubernetes/image/kustomization.yaml": r"newName: \S+\n    digest: sha256:[0-9a-f]{64}",
    "ray-cluster.yaml": r"image: \S+@sha256:[0-9a-f]{64}",
}


def asked(image: str) -> str:
    """The digest that the registry has for `image`, of all its platforms together."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    digest = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.exit(f"error: no digest for {image}: {' '.join((done.stderr or done.stdout).split())[:300]}")
    return digest


def pinned(folder: Path, image: str | None, ask: Callable[[str], str] = asked) -> dict[Path, str]:
    """The new text of every file that names an image."""
    texts = {folder / name: (folder / name).read_text() for name in (*TAGGED, *(OURS if image else ()))}
    digests: dict[str, str] = {}
    for name, pattern in TAGGED.items():
        for _, tagged in pattern.findall(texts[folder / name]):
            digests[tagged] = digests.get(tagged) or ask(tagged)
        texts[folder / name] = pattern.sub(lambda m: f"{m[1]}{m[2]}@{digests[m[2]]}", texts[folder / name])
    if image:
        digest, name = ask(image), re.sub(r":[\w.-]+$", "", image)
        for file, text in zip(OURS, (f"newName: {name}\n    digest: {digest}", f"image: {name}@{digest}"), strict=True):
            texts[folder / file] = re.sub(OURS[file], text, texts[folder / file])
    return texts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", metavar="REGISTRY/clipmill:TAG")
    for path, text in pinned(DEPLOY, parser.parse_args().image).items():
        if text != path.read_text():
            path.write_text(text)
            print(f"wrote {path}")
