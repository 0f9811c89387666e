"""A certificate authority for tests, and the certificates that it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """PEM files of a private key and its certificate."""

    key: str
    certificate: str


class Authority:
    """A CA of its own in a directory; ``certificate`` is its PEM file."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._own = Identity(str(directory / f"{name}.key"), str(directory / f"{name}.pem"))
        self.certificate = self._own.certificate
        _openssl(
            "req",
            "-x509",
            *_NEW_KEY,
            "-keyout",
            self._own.key,
            "-out",
            self._own.certificate,
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
        )

    def issue(self, name: str) -> Identity:
        """A key and a certificate for ``name``."""
        made = Identity(str(self._directory / f"{name}.key"), str(self._directory / f"{name}.pem"))
        request = str(self._directory / f"{name}.csr")
        _openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self._own.certificate, "-CAkey", self._own.key, "-CAcreateserial",
            "-out", made.certificate, "-days", "2",
        )  # fmt: skip
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
