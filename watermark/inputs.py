"""Names of images, from arguments, folders, patterns and lists, one after the other: a million are never held.

Names are text as the operating system has it, with the bytes that are not UTF-8 as lone surrogates, see
:func:`os.fsdecode`. What is in a file decides whether it is an image, never its name.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import has_magic
from typing import BinaryIO

LONGEST = 4096
"""Bytes of a path with the NUL behind it, at most, on Linux; less elsewhere."""

CHUNK = 2**16


def names_in(arguments: Iterable[str], *, recursive: bool = False, patterns: bool = True) -> Iterator[str]:
    """Names of files, for arguments that name files or folders, or are patterns.

    In a folder, files come before those of its folders, both sorted; names of one folder are held at a time. Links
    in it are not followed, and pipes, sockets and devices are left out. ``*``, ``?`` and ``[…]`` are expanded, in
    case no shell did; a pattern that matches nothing, or is a file's name, stays as it is.

    Args:
        arguments: see above.
        recursive: whether folders are gone through; without it, a folder's own name comes out.
        patterns: whether any are looked for.
    """
    for argument in arguments:
        is_pattern = patterns and has_magic(argument) and not os.path.lexists(argument)
        for name in matches(argument) if is_pattern else (argument,):
            if recursive and os.path.isdir(name):  # noqa: PTH112 - False, not an error, for names that cannot be
                yield from walk(name)
            else:
                yield name


def walk(folder: str) -> Iterator[str]:
    """Names of all regular files below a folder; also of folders that cannot be read, to be noticed."""
    below = [folder]
    while below:
        current = below.pop()
        files, folders = [], []
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
        except OSError:
            yield current
            continue
        for name in sorted(files):
            yield os.path.join(current, name)  # noqa: PTH118 - a name stays as it was given
        below += (os.path.join(current, name) for name in sorted(folders, reverse=True))  # noqa: PTH118


def matches(pattern: str) -> Iterator[str]:
    """What a pattern matches, sorted folder by folder; the pattern itself if there is nothing."""
    found = False
    with suppress(RecursionError):  # no path has so many parts
        for name in _matches(pattern):
            found = True
            yield name
    if not found:
        yield pattern


def _matches(pattern: str) -> Iterator[str]:
    folder, last = os.path.split(pattern)
    if folder == pattern:
        return
    for parent in _matches(folder) if has_magic(folder) else (folder,):
        try:
            there = os.listdir(parent or os.curdir) if has_magic(last) else [last]  # noqa: PTH208 - only names
        except OSError:
            continue
        kept = fnmatch.filter(there, last) if has_magic(last) else there
        for name in sorted(kept):
            path = os.path.join(parent, name)  # noqa: PTH118
            if (last.startswith(".") or not name.startswith(".")) and os.path.lexists(path):
                yield path


def listed(file: BinaryIO) -> Iterator[str]:
    """Names in a list, one a line; or with a NUL behind each, as ``find -print0`` writes them.

    A list has NULs if its first 4,096 bytes hold one. Empty names are left out. Lines may end as on Windows, and
    a mark of UTF-8 at the beginning is no part of a name.

    Raises:
        ValueError: if it is no list: it is in UTF-16, or a name is longer than a path can be by far.
    """
    rest = file.read(LONGEST).removeprefix(codecs.BOM_UTF8)
    if rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("the list of images is in UTF-16; write it in UTF-8")
    separator = b"\0" if b"\0" in rest else b"\n"
    more = True
    while more:
        chunk = file.read(CHUNK)
        more = bool(chunk)
        *names, rest = (rest + chunk).split(separator)
        if len(rest) > 16 * CHUNK:
            raise ValueError("the list of images is no list: it has a line of more than a million bytes")
        yield from map(os.fsdecode, filter(None, names if separator == b"\0" else map(without_return, names)))
    if rest:
        yield os.fsdecode(rest)


def without_return(line: bytes) -> bytes:
    """A line without the carriage return that Windows puts at its end."""
    return line.removesuffix(b"\r")
