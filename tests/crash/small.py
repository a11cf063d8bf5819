"""``python -m tests.crash.small serve ...``: the server, with a store that folds and checkpoints all the time."""

from __future__ import annotations

from unbroken.cli.main import main
from unbroken.store.sqlite import SqliteStore, checkpoint, chunks, folding, store

SIZES = {
    store: {"LARGE_BYTES": 4096, "_FOLD_BYTES_PER_COMMIT": 4096, "_FOLD_STREAMS_PER_COMMIT": 4, "_FOLD_AGE_MS": 20},
    chunks: {"CHUNK_BYTES_MAX": 2048},
    folding: {"_TRASH_CHUNKS_PER_STEP": 2, "_JOURNAL_ROWS_PER_STEP": 4},
    checkpoint: {"_PAGES_TO_START": 20, "_PAGES_MAX": 200},
}
OVERLAY_BYTES_MAX = 16_384

if __name__ == "__main__":
    for module, sizes in SIZES.items():
        for name, size in sizes.items():
            assert hasattr(module, name)
            setattr(module, name, size)
    assert SqliteStore.__init__.__kwdefaults__ is not None
    SqliteStore.__init__.__kwdefaults__["overlay_bytes_max"] = OVERLAY_BYTES_MAX
    main()
