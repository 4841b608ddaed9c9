-- The first schema.
--
-- Conventions:
-- - cash is in cents, prices, quantities and volumes are in 10^-8, times are nanoseconds since
--   1970-01-01T00:00Z; `wall` is the master's clock, `market` the price source's;
-- - numbers that stand for something are those of the program's enums and never change meaning;
-- - 64-bit numbers without a sign that come from elsewhere (worker_sequence, action) are stored as
--   the signed number with the same bits: they are compared for equality only;
-- - a CHECK says what the program may rely on when it reads; it is no place for business rules.

-- One row: what the whole database is.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- The deployment's ID: passwords are salted with it.
    deployment TEXT NOT NULL,
    -- The number of the last batch committed; 0 before the first.
    last_batch INTEGER NOT NULL CHECK (last_batch >= 0),
    -- The latest wall time stored: the next batch must be later.
    last_wall INTEGER NOT NULL
) STRICT;

CREATE TABLE instrument (
    id INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    symbol TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    -- What it is, as the protocol numbers it.
    kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 255)
) STRICT;

CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    name TEXT NOT NULL,
    -- The name in lower case.
    name_key TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    -- PHC string; NULL for an account without a password.
    pass_hash TEXT,
    since INTEGER NOT NULL,
    cash INTEGER NOT NULL CHECK (cash >= 0),
    -- All cash ever granted.
    granted INTEGER NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1))
) STRICT;

-- What an account owns. A position without units has no row.
CREATE TABLE position (
    account INTEGER NOT NULL REFERENCES account (id),
    instrument INTEGER NOT NULL REFERENCES instrument (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    cost INTEGER NOT NULL CHECK (cost >= 0),
    PRIMARY KEY (account, instrument)
) STRICT, WITHOUT ROWID;

-- Every order that was ever judged. A settlement updates only `state` and what comes after it (a
-- split also `quantity`), none of which is in an index that covers decided orders, so settling an
-- order rewrites one row here, one account and one position.
CREATE TABLE order_ (
    id INTEGER PRIMARY KEY CHECK (id >= 1),
    account INTEGER NOT NULL REFERENCES account (id),
    client_order_id TEXT NOT NULL,
    -- 0 buy, 1 sell.
    side INTEGER NOT NULL CHECK (side IN (0, 1)),
    instrument INTEGER NOT NULL REFERENCES instrument (id),
    -- What is asked now, after the splits that came while it was open.
    quantity INTEGER NOT NULL CHECK (quantity >= 0),
    -- What was asked at first.
    asked INTEGER NOT NULL CHECK (asked >= 0),
    -- Cash that a buy holds while it is open.
    hold INTEGER NOT NULL CHECK (hold >= 0),
    received_wall INTEGER NOT NULL,
    received_market INTEGER NOT NULL,
    -- The snapshot that was current when it came; 0 before the first.
    seen INTEGER NOT NULL CHECK (seen >= 0),
    day INTEGER NOT NULL CHECK (day BETWEEN 0 AND 4294967295),
    worker BLOB NOT NULL CHECK (length(worker) = 16),
    worker_time INTEGER NOT NULL,
    worker_sequence INTEGER NOT NULL,
    -- 0 queued, 1 filled, 2 rejected, 3 cancelled, 4 expired.
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
    -- Of a queued order: why it waits, if that is known. Of a rejected one: why it was refused.
    reason INTEGER,
    -- Of a filled order only. The quantity may differ from the one above when a split came with
    -- the snapshot that filled it.
    fill_quantity INTEGER,
    fill_price INTEGER,
    fill_amount INTEGER,
    fill_basis INTEGER,
    fill_snapshot INTEGER,
    decided_wall INTEGER,
    decided_market INTEGER,
    CHECK ((state = 0) = (decided_wall IS NULL)),
    CHECK ((decided_wall IS NULL) = (decided_market IS NULL)),
    CHECK (state <> 2 OR reason IS NOT NULL),
    CHECK (state IN (0, 2) OR reason IS NULL),
    CHECK ((state = 1) = (fill_quantity IS NOT NULL)),
    CHECK ((state = 1) = (fill_price IS NOT NULL)),
    CHECK ((state = 1) = (fill_amount IS NOT NULL)),
    CHECK ((state = 1) = (fill_basis IS NOT NULL)),
    CHECK ((state = 1) = (fill_snapshot IS NOT NULL)),
    -- The idempotency key.
    UNIQUE (account, client_order_id)
) STRICT;

-- An account's orders by age: the row ID, which is the order's ID, is the index's hidden last part.
CREATE INDEX order_by_account ON order_ (account);

-- The open orders: what is loaded at start, without reading all that was ever decided. It is
-- small, so that leaving it costs a settlement little.
CREATE INDEX order_open ON order_ (account) WHERE state = 0;

-- Client order IDs that were cancelled before an order with them came.
CREATE TABLE cancel_mark (
    account INTEGER NOT NULL REFERENCES account (id),
    client_order_id TEXT NOT NULL,
    wall INTEGER NOT NULL,
    market INTEGER NOT NULL,
    PRIMARY KEY (account, client_order_id)
) STRICT, WITHOUT ROWID;

-- Changes of money or shares that are not fills.
CREATE TABLE journal (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    -- 1 grant, 2 split.
    kind INTEGER NOT NULL CHECK (kind IN (1, 2)),
    -- Of a split: of what, the corporate action's number, and the snapshot that brought it.
    instrument INTEGER REFERENCES instrument (id),
    action INTEGER,
    snapshot INTEGER,
    -- Change of the position; 0 for a grant.
    quantity INTEGER NOT NULL,
    -- What a grant gave, or what a split paid for fractions.
    cash INTEGER NOT NULL,
    wall INTEGER NOT NULL,
    market INTEGER NOT NULL,
    CHECK ((kind = 2) = (instrument IS NOT NULL)),
    CHECK ((kind = 2) = (action IS NOT NULL)),
    CHECK ((kind = 2) = (snapshot IS NOT NULL)),
    CHECK (kind = 2 OR quantity = 0)
) STRICT;

CREATE INDEX journal_by_account ON journal (account);

-- Sessions that have not ended, under the SHA-256 of their ID.
CREATE TABLE session (
    key BLOB PRIMARY KEY CHECK (length(key) = 32),
    account INTEGER NOT NULL REFERENCES account (id),
    expires INTEGER NOT NULL,
    expirable INTEGER NOT NULL CHECK (expirable IN (0, 1)),
    -- The address in its usual text form.
    client TEXT NOT NULL,
    started INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each settlement. The last says where the books stand.
CREATE TABLE snapshot (
    number INTEGER PRIMARY KEY CHECK (number >= 1),
    wall INTEGER NOT NULL,
    market INTEGER NOT NULL,
    -- Market days so far.
    day INTEGER NOT NULL CHECK (day BETWEEN 0 AND 4294967295),
    -- The last corporate action applied.
    last_action INTEGER NOT NULL,
    -- The source has no later prices.
    ended INTEGER NOT NULL CHECK (ended IN (0, 1))
) STRICT;

-- The latest price of each instrument.
CREATE TABLE price (
    instrument INTEGER PRIMARY KEY REFERENCES instrument (id),
    price INTEGER NOT NULL CHECK (price > 0),
    -- When the price was made.
    time INTEGER NOT NULL
) STRICT;

CREATE TABLE bar (
    instrument INTEGER NOT NULL REFERENCES instrument (id),
    -- 0 update interval, 1 hour, 2 day, 3 month.
    resolution INTEGER NOT NULL CHECK (resolution BETWEEN 0 AND 3),
    start INTEGER NOT NULL,
    open INTEGER NOT NULL,
    high INTEGER NOT NULL,
    low INTEGER NOT NULL CHECK (low > 0),
    close INTEGER NOT NULL,
    volume INTEGER NOT NULL,
    PRIMARY KEY (instrument, resolution, start),
    CHECK (open BETWEEN low AND high),
    CHECK (close BETWEEN low AND high)
) STRICT, WITHOUT ROWID;

CREATE TABLE worker (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL UNIQUE,
    -- Addresses and networks, separated by commas.
    allowed TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The other sides of the double entry. The amounts are decimal text because they outgrow 64 bits.
CREATE TABLE named_account (
    name TEXT NOT NULL CHECK (name IN ('market', 'grants', 'fractions')),
    -- 0 for cash, else whose units.
    instrument INTEGER NOT NULL CHECK (instrument >= 0),
    amount TEXT NOT NULL,
    PRIMARY KEY (name, instrument),
    CHECK (instrument = 0 OR name = 'market')
) STRICT, WITHOUT ROWID;

INSERT INTO named_account (name, instrument, amount)
VALUES ('market', 0, '0'), ('grants', 0, '0'), ('fractions', 0, '0');

-- Every posting of the double entry, derived from what is stored: a filled order gives four, a
-- grant two, a split four. `account` is a trader's account or NULL, then `named` says which named
-- account; `instrument` is NULL for cash. For any rows that come from one entry the amounts sum to
-- zero in each asset. For reports and checks; the program itself never reads it.
CREATE VIEW posting (source, source_id, account, named, instrument, amount) AS
SELECT 'order', id, account, NULL, NULL, iif(side = 0, -fill_amount, fill_amount)
FROM order_ WHERE state = 1
UNION ALL
SELECT 'order', id, NULL, 'market', NULL, iif(side = 0, fill_amount, -fill_amount)
FROM order_ WHERE state = 1
UNION ALL
SELECT 'order', id, account, NULL, instrument, iif(side = 0, fill_quantity, -fill_quantity)
FROM order_ WHERE state = 1
UNION ALL
SELECT 'order', id, NULL, 'market', instrument, iif(side = 0, -fill_quantity, fill_quantity)
FROM order_ WHERE state = 1
UNION ALL
SELECT 'journal', id, account, NULL, NULL, cash FROM journal
UNION ALL
SELECT 'journal', id, NULL, iif(kind = 1, 'grants', 'fractions'), NULL, -cash FROM journal
UNION ALL
SELECT 'journal', id, account, NULL, instrument, quantity FROM journal WHERE kind = 2
UNION ALL
SELECT 'journal', id, NULL, 'market', instrument, -quantity FROM journal WHERE kind = 2;
