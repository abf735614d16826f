"""The Debian packages that Sapling's pictures come from, with their licences, and how to get at their files."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class Package:
    """A Debian package of pictures; ``licences`` as its copyright file has them (bookworm, 2023)."""

    name: str
    holds: str
    licences: tuple[str, ...]


PACKAGES = (
    Package("tuxpaint-stamps-default", "stamps", ("GPL-2",)),
    Package("gnome-backgrounds", "wallpapers", ("CC-BY-SA-3.0", "CC-BY-SA-2.0", "CC-BY-2.0", "GPL-2+")),
    Package("mate-backgrounds", "wallpapers", ("GPL-2+", "CC-BY-SA-4.0")),
    Package("lomiri-wallpapers-16.04", "wallpapers", ("CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0")),
    Package("lomiri-wallpapers-20.04", "wallpapers", ("CC-BY-SA-3.0",)),
    Package("plasma-workspace-wallpapers", "wallpapers", ("GPL-2+",)),
    Package("ukui-wallpapers", "wallpapers", ("CC-BY-SA-3.0",)),
)


class NoPackagesError(click.ClickException):
    """The packages are not here and cannot be had."""

    def __init__(self, reason: str) -> None:
        names = " ".join(p.name for p in PACKAGES)
        super().__init__(
            f"{reason}. Give the packages with --from: .deb files of https://packages.debian.org, or folders that "
            f"they were extracted to. They are: {names}"
        )


def find(given: Sequence[Path], cache: Path) -> dict[str, tuple[Path, str]]:
    """The root folder of every package, which has ``usr/share`` in it, and its version.

    Args:
        given: ``.deb`` files, folders of them, and folders that these packages, and no others, were extracted to.
            What is missing in them is an error; only without any are packages downloaded.
        cache: where packages are downloaded and extracted to. What it has is not fetched again.

    Raises:
        NoPackagesError: if a package is in none of these places, or cannot be downloaded, or a place is a system
            with other packages, whose pictures would be taken for those of these.
    """
    for path in given:
        if (path / "var/lib/dpkg/status").is_file():
            raise NoPackagesError(f"{path} is an installed system, with pictures of other packages")
    debs = [deb for path in given for deb in ([path] if path.suffix == ".deb" else sorted(path.glob("*.deb")))]
    found: dict[str, tuple[Path, str]] = {}
    for package in PACKAGES:
        own = [deb for deb in debs if deb.name.startswith(f"{package.name}_")]
        extracted = [path for path in given if (path / "usr/share/doc" / package.name / "copyright").is_file()]
        root = cache / package.name
        if own:
            found[package.name] = extract(own[0], root)
        elif extracted:
            found[package.name] = extracted[0], version_of(extracted[0], package.name)
        elif given:
            raise NoPackagesError(f"{package.name} is not among {', '.join(map(str, given))}")
        elif (root / "version").is_file():
            found[package.name] = root, version_of(root, package.name)
        else:
            found[package.name] = extract(download(package.name, cache), root)
    return found


def version_of(root: Path, name: str) -> str:
    """What :func:`extract` noted, if it extracted the package, else what the package's changelog begins with."""
    mark, log = root / "version", root / "usr/share/doc" / name / "changelog.Debian.gz"
    if mark.is_file():
        return mark.read_text(encoding="utf-8")
    if log.is_file():
        try:
            first = gzip.decompress(log.read_bytes()).decode("utf-8", "replace").partition("\n")[0]
        except (OSError, EOFError, zlib.error) as error:
            raise NoPackagesError(f"{log} cannot be read: {error}") from error
        if version := re.match(r"\S+ \((\S+)\)", first):
            return version[1]
    return "unknown"


def download(name: str, cache: Path) -> Path:
    """The ``.deb`` file of a package, from the Debian archive that apt is set up for; needs no root."""
    if shutil.which("apt-get") is None:
        raise NoPackagesError("there is no apt-get here to download Debian packages with")
    cache.mkdir(parents=True, exist_ok=True)
    click.echo(f"downloading {name}", err=True)
    done = subprocess.run(  # noqa: S603 - a name of the list above
        ["apt-get", "download", "--quiet", name],  # noqa: S607
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )
    files = sorted(cache.glob(f"{name}_*.deb"))
    if done.returncode or not files:
        lines = done.stderr.strip().splitlines() or ["nothing was written"]
        raise NoPackagesError(f"apt-get could not download {name} ({lines[-1]}); apt-get update may help")
    return files[-1]


def extract(deb: Path, root: Path) -> tuple[Path, str]:
    """Extract a ``.deb`` file, unless that is done; its folder and version."""
    if shutil.which("dpkg-deb") is None:
        raise NoPackagesError(f"there is no dpkg-deb here to extract {deb} with")
    version = dpkg("--field", str(deb), "Version").strip()
    mark = root / "version"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != version:
        click.echo(f"extracting {deb.name}", err=True)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        dpkg("--extract", str(deb), str(root))
        mark.write_text(version, encoding="utf-8")
    return root, version


def dpkg(*arguments: str) -> str:
    """What dpkg-deb prints."""
    done = subprocess.run(["dpkg-deb", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode:
        raise NoPackagesError(f"dpkg-deb failed: {done.stderr.strip()}")
    return done.stdout
