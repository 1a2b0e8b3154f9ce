"""`aa key`, `aa sign` and `aa verify`: signatures of runs with a key, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aa_core import signing
from aa_core.commands.base import epilog
from aa_core.commands.console import note
from aa_core.commands.options import Run, open_told

PrivateKey = Annotated[Path, typer.Option("--key", metavar="FILE.key", help="The private key to sign with.")]
PublicKey = Annotated[Path, typer.Option("--key", metavar="FILE.pub", help="The signer's public key.")]
SignatureOption = Annotated[
    Path | None, typer.Option("--signature", metavar="FILE.sig", help="By default run.sig in the run, or FILE.sig.")
]


def key(name: Annotated[Path, typer.Argument(help="NAME.key and NAME.pub are written.", show_default=False)]) -> None:
    """Make a pair of keys: NAME.key signs and stays with you, NAME.pub verifies and is handed out."""
    made = signing.make_keys(name)
    note(f"wrote {made.private} (keep it to yourself) and {made.public}")


def sign(run: Run, key: PrivateKey, signature: SignatureOption = None) -> None:
    """Sign every file of a recorded run, in the OpenSSF format."""
    opened = open_told(run)
    if not opened.sealed:
        note("warning: the run is not sealed: the signature ends with the next step that is recorded")
    note(f"wrote {signing.sign(run, key, signature)} for the run with digest {opened.digest}")


def verify(run: Run, key: PublicKey, signature: SignatureOption = None) -> None:
    """Is a run what the owner of the key signed? Exits with 1, and names what differs, if not."""
    digest = signing.verify(run, key, signature)
    typer.echo(f"{run}: as it was signed by the owner of the key {digest[:16]} (run digest {open_told(run).digest})")
    note("a signature says who signed, not that the training took place: aa check replays it")


def vouched(run: Path, key: Path | None) -> str:
    """Who vouches for the files of a run, in words; IntegrityError if it is not what the owner of the key signed."""
    if key is not None:
        signer = signing.verify(run, key)[:16]
        return f"signed by the owner of the key {signer}: these files, which does not show that the training took place"
    if signing.signature_path(run).exists():
        return "signed, by whom is not known without the key: aa check --key FILE.pub"
    return "unsigned: nobody vouches for these files"


def register(app: typer.Typer) -> None:
    """Offer the commands."""
    app.command(epilog=epilog("aa key auditor", "aa key ~/keys/lab"))(key)
    app.command(epilog=epilog("aa sign my_run --key lab.key", "aa sign my_run --key lab.key --signature lab.sig"))(sign)
    app.command(epilog=epilog("aa verify my_run --key lab.pub", "aa verify my_run --key lab.pub --signature lab.sig"))(
        verify
    )
