"""Signatures with a key, offline, in the OpenSSF format: a run as a folder, a report as a file.

A signature says who, to whoever has the public key from a source that they trust. It does not say that a training took
place as recorded (aa check replays it), nor that a report is right.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, NamedTuple

from aa_core.errors import IntegrityError, MissingExtraError, RequestError, RunFormatError
from aa_core.files import write_new
from aa_core.runs.header import read_json
from aa_core.runs.verified import sha256

IN_A_RUN = "run.sig"
PRIVATE, PUBLIC = ".key", ".pub"
MAKE = "make a pair of keys with: aa key NAME"
SHOWN = 5


class Keys(NamedTuple):
    """The files of a new pair of keys."""

    private: Path
    public: Path


def make_keys(name: str | Path) -> Keys:
    """A new pair of elliptic-curve keys (P-256): NAME.key to sign with, for its owner only, and NAME.pub to hand out.

    Raises RequestError if there is such a file already, MissingExtraError without the extra `sign`.
    """
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    made = Keys(Path(f"{name}{PRIVATE}"), Path(f"{name}{PUBLIC}"))
    try:
        with open(os.open(made.private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        write_new(made.public, public)
    except FileExistsError as error:
        raise RequestError(f"{error.filename}: is there already; keys are never overwritten") from None
    return made


def signature_path(what: Path) -> Path:
    """Where a signature lies by default: run.sig in the folder of a run, FILE.sig beside a file."""
    return what / IN_A_RUN if what.is_dir() else what.with_name(f"{what.name}.sig")


def sign(what: str | Path, key: str | Path, signature: str | Path | None = None) -> Path:
    """Sign every file of a folder, or one file, with a private key; where the signature was written.

    Raises RequestError naming what is missing or of the wrong kind, MissingExtraError without the extra `sign`.
    """
    what, key = _there(Path(what), "run or report"), _there(Path(key), f"private key; {MAKE}")
    target = signature_path(what) if signature is None else Path(signature)
    signing, _, hashing = _library()
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # the library raises several types of its own
        raise RequestError(
            f"{key}: not a private key to sign with ({_first_line(error)}); expected an unencrypted elliptic-curve key "
            f"in PEM format (P-256, P-384 or P-521); {MAKE}"
        ) from None
    try:
        signer.set_hashing_config(_all_but(hashing, what, target)).sign(what, target)
    except OSError as error:
        raise RequestError(
            f"{target}: the signature cannot be written ({_first_line(error)}); choose another place with --signature"
        ) from None
    return target


def verify(what: str | Path, key: str | Path, signature: str | Path | None = None) -> str:
    """Check that a folder or file is what the owner of the key signed; the digest of the public key.

    Raises IntegrityError if the key is another one, or naming what was changed, added or removed since.
    """
    what, key = _there(Path(what), "run or report"), _there(Path(key), f"public key; {MAKE}")
    found = _there(
        signature_path(what) if signature is None else Path(signature), "signature; name another place with --signature"
    )
    _, verifying, hashing = _library()
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise RequestError(
            f"{key}: not a public key to verify with ({_first_line(error)}); expected the {PUBLIC} file of a pair"
        ) from None
    try:
        verifier.set_hashing_config(_all_but(hashing, what, found)).verify(what, found)
    except Exception as error:
        raise _refusal(what, key, found, error) from None
    _check_spelling(found)
    return sha256(key.read_bytes())


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise MissingExtraError("signing and verifying with a key", "sign") from None
    return signing, verifying, hashing


def _all_but(hashing: Any, what: Path, signature: Path) -> Any:
    """Every file is signed, but the signature itself, by relative names: they tell nobody where it was made."""
    own, root = signature.absolute(), what.absolute()
    inside = [own.relative_to(root)] if own.is_relative_to(root) else []
    return hashing.Config().set_ignored_paths(paths=[Path(IN_A_RUN), *inside], ignore_git_paths=False)


def _check_spelling(signature: Path) -> None:
    """IntegrityError for bits of the base64 text that its decoders overlook: a valid signature has one spelling."""
    try:
        envelope = read_json(signature.read_bytes(), str(signature))["dsseEnvelope"]
        texts = [envelope["payload"], *(s["sig"] for s in envelope["signatures"])]
        as_written = all(base64.b64encode(base64.b64decode(text)).decode() == text for text in texts)
    except (KeyError, ValueError):  # a field by another name that the library knows, too
        as_written = False
    if not as_written:
        raise IntegrityError(f"{signature}: not spelled as it was written, though valid; ask the signer for it again")


def _refusal(what: Path, key: Path, signature: Path, error: Exception) -> Exception:
    """Our own words for what the library found."""
    said = str(error)
    if "Signature mismatch" in said:
        _check_spelling(signature)
        return IntegrityError(f"{what}: not as it was signed: {_changed(what, signature)}")
    if "Key mismatch" in said:
        return IntegrityError(f"{what}: signed with another key than {key}; ask the signer for theirs")
    if isinstance(error, ValueError) and "JSON" in type(error).__name__ + said:
        return RunFormatError(f"{signature}: not a signature file ({_first_line(error)})")
    return IntegrityError(f"{signature}: not a valid signature by the owner of {key} ({_first_line(error)})")


def _changed(what: Path, signature: Path) -> str:
    """Which files are not what the signature, which is valid, says of them."""
    envelope = read_json(signature.read_bytes(), str(signature))["dsseEnvelope"]
    stated = read_json(base64.b64decode(envelope["payload"]), str(signature))["predicate"]["resources"]
    signed = {entry["name"]: entry["digest"] for entry in stated}
    files = [what] if what.is_file() else [f for f in what.rglob("*") if f.is_file() and f != what / IN_A_RUN]
    found = {str(f.relative_to(what)): sha256(f.read_bytes()) for f in files}
    groups = {
        "changed": sorted(n for n in found.keys() & signed.keys() if found[n] != signed[n]),
        "added": sorted(found.keys() - signed.keys()),
        "missing": sorted(signed.keys() - found.keys()),
    }
    return "; ".join(
        f"{word}: {', '.join(what.name if n == '.' else n for n in names[:SHOWN])}" + ", ..." * (len(names) > SHOWN)
        for word, names in groups.items()
        if names
    )


def _there(path: Path, what: str) -> Path:
    if not path.exists():
        raise RequestError(f"{path}: no such {what}")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
