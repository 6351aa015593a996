"""Makes all parts, two at a time, and then the page."""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from exfm.artifact.manifest import json_bytes
from exfm.artifact.stores import write_file
from exfm.environment import compute_environment
from exfm_bench.results.found import SERVED, read_found
from exfm_bench.results.page import page
from exfm_bench.results.parts import LINE_METHODS, MOVIELENS, Part, lines_by_method, make_part, parts_of
from exfm_bench.results.pictures import pictures
from exfm_bench.results.served import measure_served
from exfm_components.data_augmentation import das_of

PAGE, IMAGES = "results.md", "images"


def bench_results(*, examples: Path, out: Path, docs: Path, num_worlds: int, num_processes: int) -> None:
    """Make what is not there of all parts below `out`, then the page and its pictures in `docs`.

    Raises: ConfigError if the settings below `examples` are wrong; what a part's stages raise.
    """
    parts = parts_of(examples, out, num_worlds=num_worlds)
    os.environ.update(compute_environment() | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"})
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(make_part, part) for part in parts]):
            done.result()
    movielens = next(part for part in parts if part.name == MOVIELENS)
    if not (out / SERVED).exists():  # after the pool, so that nothing else is busy
        _write_served(movielens, out / SERVED)
    found = read_found(out, num_worlds=num_worlds)
    for name, picture in pictures(found).items():
        write_file(str(docs / IMAGES / name), picture)
    write_file(str(docs / PAGE), page(found).encode())


def _write_served(movielens: Part, file: Path) -> None:
    run = movielens.run
    lines = [line for method, line in lines_by_method(run) if method in ("", LINE_METHODS[0])]
    served = measure_served(das_of(run), lines, encoding=run.bundle.sharding.encoding)
    write_file(str(file), json_bytes([one.to_dict() for one in served]))
