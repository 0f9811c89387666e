"""Bearer tokens: who may use the REST interface, and as what.

``tokens.json`` in the state directory holds, for each token, a name, a role, a project and the SHA-256 of the token;
never the token itself. Tokens are 256 random bits, so a plain hash is enough: there is nothing to guess. The file is
read again whenever it changes. Both the controller and ``novanet token`` use this module; it imports neither Ryu nor eventlet.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec

TOKENS = "tokens.json"
ADMIN_TOKEN = "admin.token"
PREFIX = "nvn_"
"""What every token begins with, so that secret scanners can find one that was leaked."""

Role = Literal["admin", "tenant", "reader"]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_.-]+\\Z")]


class TokenError(Exception):
    """What is wrong with tokens, where, and what to do."""


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a token allows.

    ``admin`` may everything; ``tenant`` sees and changes the objects of ``project_id``; ``reader`` only reads: the
    objects of ``project_id``, or all when it is None.
    """

    name: Label
    role: Role
    project_id: Label | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")] = ""

    def __post_init__(self) -> None:
        if self.role == "tenant" and self.project_id is None:
            raise ValueError(f"token {self.name}: a tenant's token needs a project_id")
        if self.role == "admin" and self.project_id is not None:
            raise ValueError(f"token {self.name}: an administrator's token has no project_id")


def digest(secret: str) -> str:
    """SHA-256 of a token, in hexadecimal."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class TokenFile:
    """The tokens of one state directory."""

    def __init__(self, state_dir: str | Path) -> None:
        self.path = Path(state_dir) / TOKENS
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    def find(self, secret: str) -> Token | None:
        """The token with this secret, or None."""
        hashed = digest(secret)
        token = self._tokens.get(hashed)
        return token if token is not None and hmac.compare_digest(token.sha256, hashed) else None

    def holds(self, token: Token) -> bool:
        """Whether the token is still valid; False once it was deleted."""
        return self._tokens.get(token.sha256) == token

    def refresh(self) -> bool:
        """Read the file again if it changed; returns whether it did. Raises TokenError and then keeps what it had."""
        try:
            found = self.path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            stamp = None
        except OSError as problem:
            raise TokenError(f"cannot read {self.path}: {problem.strerror}") from None
        if stamp == self._stamp:
            return False
        tokens = {token.sha256: token for token in self.read()}
        self._stamp, self._tokens = stamp, tokens
        return True

    def read(self) -> list[Token]:
        """Every token in the file, none when there is no file. Raises TokenError."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=list[Token])
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise TokenError(f"cannot read {self.path}: {problem.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise TokenError(f"{self.path} is not a list of tokens: {problem}; mend it or put a backup back") from None

    # --- writing -------------------------------------------------------------------------------------------------

    def create(self, name: str, role: str, project_id: str | None = None, secret: str | None = None) -> str:
        """Add a token; returns its secret, which is made here unless given, and not kept. Raises TokenError."""
        secret = secret or new_secret()
        fields = {"name": name, "role": role, "project_id": project_id, "sha256": digest(secret)}
        try:
            token = msgspec.convert(fields, Token)
        except msgspec.ValidationError as problem:
            raise TokenError(str(problem)) from None
        with self._locked():
            tokens = self.read()
            if any(other.name == name for other in tokens):
                raise TokenError(f"there is a token named {name} already; delete it first or choose another name")
            self._write([*tokens, token])
        return secret

    def delete(self, name: str) -> None:
        """Take a token away: at once, for every later request. Raises TokenError."""
        with self._locked():
            tokens = self.read()
            kept = [token for token in tokens if token.name != name]
            if len(kept) == len(tokens):
                raise TokenError(f"there is no token named {name} in {self.path}")
            self._write(kept)

    def bootstrap(self) -> Path | None:
        """At the very first start make an administrator's token; returns the file that holds it, else None."""
        if self.path.exists():
            return None
        path, secret = self.path.parent / ADMIN_TOKEN, new_secret()
        with self._locked():
            path.unlink(missing_ok=True)
            write_secret(path, secret)
        self.create("admin", "admin", secret=secret)
        return path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time changes the file."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise TokenError(f"cannot write to {self.path.parent}: {problem.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, tokens: list[Token]) -> None:
        text = msgspec.json.format(msgspec.json.encode(tokens), indent=2) + b"\n"
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".tokens-", delete=False) as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            os.replace(new.name, self.path)
        except OSError as problem:
            raise TokenError(f"cannot write {self.path}: {problem.strerror}") from None


def new_secret() -> str:
    """A token: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def write_secret(path: Path, secret: str) -> None:
    """A new file that only its owner can read. Raises TokenError, also when the file exists."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as new:
            new.write(secret + "\n")
    except OSError as problem:
        raise TokenError(f"cannot write {path}: {problem.strerror}") from None
