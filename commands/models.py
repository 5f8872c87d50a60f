"""Model files: list, fetch and convert them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.terminal import print_table
from config import Settings
from speech import engines
from speech.engines import ModelKey, ModelStore, catalogue

app = typer.Typer(help="Model files.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the models that there are, and which of them are here for WHISPER_ENGINE."""
    settings = Settings.from_env()
    store = ModelStore(settings.models_path, download_allowed=False)
    rows = []
    for spec in catalogue.MODELS.values():
        key = ModelKey(settings.whisper_engine, spec.name, "cpu", "float32")
        also = [alias for alias, name in catalogue.ALIASES.items() if name == spec.name]
        here = engines.find(key, store)
        rows.append(
            (
                " = ".join((spec.name, *also)),
                f"{spec.parameters / 1e6:.0f} M",
                f"{spec.download_bytes / 1e6:.0f} MB",
                "English" if not spec.multilingual else f"{len(spec.languages)} languages",
                str(here or "-"),
            )
        )
    print_table(("model", "numbers", "download", "knows", "here"), rows)


@app.command("pull")
def pull_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to fetch; WHISPER_MODEL_SIZE, if not given."),
    ] = None,
) -> None:
    """Bring the files of models into MODEL_CACHE_DIR, for WHISPER_ENGINE; resumes what was cut."""
    settings = Settings.from_env()
    store = ModelStore(settings.models_path, base_url=settings.model_base_url)
    for name in names or [settings.whisper_model_size]:
        spec = catalogue.resolve(name)
        # where it will run does not matter to its files
        key = ModelKey(settings.whisper_engine, spec.name, "cpu", "float32")
        typer.echo(f"{spec.name}: {engines.fetch(key, store)}")


@app.command("convert")
def convert_model(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint in openai-whisper's format, such as base.pt.")
    ],
    target: Annotated[Path, typer.Argument(help="The folder to make, for faster-whisper.")],
    quantization: Annotated[
        str | None,
        typer.Option(help="Such as int8 or float16; the checkpoint's own, if not given."),
    ] = None,
) -> None:
    """Convert a checkpoint for CTranslate2, so that faster-whisper runs the same weights."""
    engines.convert_checkpoint(checkpoint, target, quantization=quantization)
    typer.echo(target)
