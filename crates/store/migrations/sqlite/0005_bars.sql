-- Bars of settlements stand on a tape, a row for each batch that brings some, and then in chunks, a row
-- for some bars of one instrument and resolution (docs/design/0010-bars.md). The conventions are those of
-- 0001. The bytes are as `bars.rs` says. The table `bar` has history from the source, and what was settled
-- before.

-- The last 63 rows at the most.
CREATE TABLE bar_tape (
    number INTEGER PRIMARY KEY CHECK (number >= 1),
    bars BLOB NOT NULL
) STRICT;

CREATE TABLE bar_chunk (
    instrument INTEGER NOT NULL REFERENCES instrument (id),
    -- The starts of its first and last bar.
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    -- As in `bar`.
    resolution INTEGER NOT NULL CHECK (resolution BETWEEN 0 AND 3),
    bars BLOB NOT NULL,
    PRIMARY KEY (instrument, resolution, first),
    CHECK (first <= last)
) STRICT, WITHOUT ROWID;

-- Who was away asks what was settled since a time: without it, all snapshots would be read.
CREATE INDEX snapshot_by_wall ON snapshot (wall);
