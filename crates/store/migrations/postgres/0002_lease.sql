-- The lease (docs/design/0004-standby.md): which process is the master, so that another can wait for
-- its end and take its place.

-- The process that may write batches: each transaction locks this row and looks.
ALTER TABLE meta ADD COLUMN holder TEXT NOT NULL DEFAULT '';

-- One row. It is apart from `meta` because it is renewed while a long batch holds that row's lock.
CREATE TABLE lease (
    one SMALLINT PRIMARY KEY CHECK (one = 1),
    -- The same as in `meta`; a random UUID that each process makes for itself. Empty before the first.
    holder TEXT NOT NULL,
    -- Where that process runs, for people.
    name TEXT NOT NULL,
    -- The session in which it writes, as pg_stat_activity names it.
    process BIGINT NOT NULL,
    started TEXT NOT NULL,
    -- When the process last said that it lives, by this server's clock.
    renewed TIMESTAMP WITH TIME ZONE NOT NULL
) WITH (fillfactor = 50);

INSERT INTO lease (one, holder, name, process, started, renewed)
VALUES (1, '', '', 0, '', clock_timestamp());
