-- Bars of settlements stand on a tape, a row for each batch that brings some, and then in chunks, a row
-- for some bars of one instrument and resolution (docs/design/0010-bars.md). The conventions are those of
-- 0001. The bytes are as `bars.rs` says. The table `bar` has history from the source, and what was settled
-- before.

-- The last 63 rows at the most.
CREATE TABLE bar_tape (
    number BIGINT PRIMARY KEY CHECK (number >= 1),
    bars BYTEA NOT NULL
);

CREATE TABLE bar_chunk (
    instrument BIGINT NOT NULL,
    -- The starts of its first and last bar.
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    -- As in `bar`.
    resolution SMALLINT NOT NULL CHECK (resolution BETWEEN 0 AND 3),
    bars BYTEA NOT NULL,
    PRIMARY KEY (instrument, resolution, first),
    CHECK (first <= last)
);

-- Who was away asks what was settled since a time: without it, all snapshots would be read.
CREATE INDEX snapshot_by_wall ON snapshot (wall);
