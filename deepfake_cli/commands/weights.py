"""`deepfake weights list|pull|verify|path|import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

import weights as registry
from deepfake_cli import EXIT_CHECK_FAILED
from deepfake_cli import options as opt
from deepfake_cli.printing import count, printable
from pipelines.config import DetectConfig, RunOptions
from weights import WeightsEntry

app = typer.Typer(
    help="List, download, verify and import weights.",
    epilog="Example: deepfake weights list",
    no_args_is_help=True,
)

IMPORT_EXAMPLE = "deepfake weights import ff_c23.pth --from multi-attention-official -o ff.safetensors"


@app.command("list", epilog="Example: deepfake weights list")
def list_weights() -> None:
    """List all known weights: name, kind, licence, and whether they are embedded or were pulled."""
    from pipelines.checkpoints.cache import is_pulled

    width = max(len(name) for name in registry.REGISTRY)
    for entry in registry.REGISTRY.values():
        state = "embedded" if entry.is_embedded else "pulled" if is_pulled(entry) else "not included"
        typer.echo(f"{entry.name:<{width}}  {entry.kind:<10}  {state:<12}  {entry.description}")
        typer.echo(f"{'':<{width}}  licence: {entry.licence}")


@app.command(epilog="Example: deepfake weights pull retinaface-resnet50")
def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names from weights list.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Download again even if the file is there.")
    ] = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Download weights that are not part of the package into the cache (DEEPFAKE_CACHE).

    An interrupted download resumes.
    """
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    from deepfake_cli.progress import ProgressBar
    from pipelines import pull_weights as run

    for entry in [_find(name) for name in names]:
        with ProgressBar(quiet=quiet) as bar:
            done = run(entry.name, overwrite=overwrite, on_progress=bar)
        if not quiet:
            outcome = "already there" if done.was_there else "pulled"
            typer.echo(
                f"{entry.name}: {outcome}, {printable(str(done.path))} ({done.bytes / 1e6:.1f} MB, SHA-256 {done.sha256})"
            )


@app.command(epilog="Example: deepfake weights verify")
def verify() -> None:
    """Compare all embedded and pulled weights with their SHA-256 digests; exit with code 4 if any is damaged."""
    from pipelines.checkpoints.cache import is_pulled
    from pipelines.checkpoints.weights_files import resolve_weights
    from pipelines.errors import CheckpointError

    damaged = False
    for entry in registry.REGISTRY.values():
        if not entry.is_embedded and not is_pulled(entry):
            continue
        try:
            file = resolve_weights(entry.name, kind=entry.kind)
            typer.echo(f"{entry.name}  ok  {file.sha256}")
        except CheckpointError as error:
            damaged = True
            typer.echo(f"{entry.name}  damaged  {error}")
    if damaged:
        raise typer.Exit(EXIT_CHECK_FAILED)


@app.command(epilog="Example: deepfake weights path multi-attention-default")
def path(name: Annotated[str, typer.Argument(metavar="NAME", help="A name from weights list.")]) -> None:
    """Print the path of an embedded or pulled file."""
    from pipelines.checkpoints.weights_files import resolve_weights

    typer.echo(str(resolve_weights(name, kind=_find(name).kind).path))


@app.command("import", epilog=f"Example: {IMPORT_EXAMPLE}")
def import_weights(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="PyTorch file as its authors released it.")],
    layout: Annotated[
        Literal["multi-attention-official"],
        typer.Option("--from", metavar="SOURCE", help="Origin of the file: multi-attention-official."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .safetensors checkpoint to write.")
    ],
    margin: opt.Margin = DetectConfig.margin,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Convert a detector trained by others into a checkpoint for predict. Code in the file is never run."""
    from pipelines import import_weights as run

    done = run(checkpoint, output, layout=layout, margin=margin, overwrite=overwrite)
    left_out = f"; left out: {printable(', '.join(done.left_out))}" if done.left_out else ""
    typer.echo(
        f"{printable(str(done.path))}: {count(done.tensors, 'tensor')}, {count(done.num_attentions, 'attention map')}"
        f" (source SHA-256 {done.source_sha256[:12]}…){left_out}"
    )
    typer.echo(
        f"predict aligns faces itself, with margin {margin:g} (--margin); the authors' crops are not public, "
        "so scores can differ from theirs"
    )


def _find(name: str) -> WeightsEntry:
    from pipelines.errors import CheckpointError

    entry = registry.find_entry(name)
    if entry is None:
        raise CheckpointError(f"unknown weights {name!r}; known: {', '.join(registry.REGISTRY)}")
    return entry
