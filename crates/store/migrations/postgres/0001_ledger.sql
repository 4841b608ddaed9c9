-- The first schema for PostgreSQL: that of SQLite after its third migration
-- (docs/design/0003-ledger.md), all tables at once.
--
-- Conventions:
-- - cash is in cents, prices, quantities and volumes are in 10^-8, times are nanoseconds since
--   1970-01-01T00:00Z; `wall` is the master's clock, `market` the price source's;
-- - IDs have 32 bits without a sign, so they are BIGINT; flags are SMALLINT, 0 or 1;
-- - numbers that stand for something are those of the program's enums and never change meaning;
-- - 64-bit numbers without a sign that come from elsewhere (worker_sequence, action) and hashes are
--   stored as the signed number with the same bits: they are compared for equality only;
-- - a CHECK says what the program may rely on when it reads; it is no place for business rules.
--
-- Where rows are spread over machines (Citus, CockroachDB, YugabyteDB), a key has the column by which
-- they are spread. `outcome`, `balance`, `position`, `journal`, `cancel_mark` and `exposure` are asked for
-- by account and have it in their keys. `order_` and `waiting` are asked for by the order's number.
-- The rest are small.
--
-- Tables that a settlement rewrites leave room in their pages (fillfactor), so that a new version of a
-- row stays on its page and no index is touched. None of these columns is in a second index.
--
-- `position` and `bar` refer to accounts and instruments without a foreign key: it would cost a
-- look-up for each new row, and the writer knows both. Verification looks for all such rows.

-- One row: what the whole database is.
CREATE TABLE meta (
    one SMALLINT PRIMARY KEY CHECK (one = 1),
    -- The deployment's ID: passwords are salted with it.
    deployment TEXT NOT NULL,
    -- The number of the last batch committed; 0 before the first. A writer changes it only from the
    -- number that it follows: of two writers one fails.
    last_batch BIGINT NOT NULL CHECK (last_batch >= 0),
    -- The latest wall time stored: the next batch must be later.
    last_wall BIGINT NOT NULL,
    -- The last order that existed at the last settlement: an open one with a higher number is not in
    -- `waiting`, one with a lower number is.
    settled_order BIGINT NOT NULL DEFAULT 0 CHECK (settled_order >= 0)
) WITH (fillfactor = 50);

CREATE TABLE instrument (
    id BIGINT PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    symbol TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    -- What it is, as the protocol numbers it.
    kind SMALLINT NOT NULL CHECK (kind BETWEEN 0 AND 255)
);

CREATE TABLE account (
    id BIGINT PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    since BIGINT NOT NULL,
    disabled SMALLINT NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    -- 1: the owner must choose a new password before anything else.
    password_due SMALLINT NOT NULL DEFAULT 0 CHECK (password_due IN (0, 1)),
    name TEXT NOT NULL,
    -- The name in lower case.
    name_key TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL,
    -- PHC string; NULL for an account without a password.
    pass_hash TEXT
);

CREATE TABLE balance (
    account BIGINT PRIMARY KEY,
    cash BIGINT NOT NULL CHECK (cash >= 0),
    -- All cash ever granted.
    granted BIGINT NOT NULL
) WITH (fillfactor = 50);

-- What an account owns. A position without units has no row.
CREATE TABLE position (
    account BIGINT NOT NULL,
    instrument BIGINT NOT NULL,
    quantity BIGINT NOT NULL CHECK (quantity > 0),
    cost BIGINT NOT NULL CHECK (cost >= 0),
    PRIMARY KEY (account, instrument)
) WITH (fillfactor = 70);

-- Every order that was ever judged, as it was asked. Never changed.
CREATE TABLE order_ (
    id BIGINT PRIMARY KEY,
    account BIGINT NOT NULL,
    instrument BIGINT NOT NULL,
    -- What was asked at first.
    quantity BIGINT NOT NULL,
    -- Cash that a buy holds while it is open.
    hold BIGINT NOT NULL,
    received_wall BIGINT NOT NULL,
    received_market BIGINT NOT NULL,
    -- The snapshot that was current when it came; 0 before the first.
    seen BIGINT NOT NULL,
    day BIGINT NOT NULL,
    worker_time BIGINT NOT NULL,
    worker_sequence BIGINT NOT NULL,
    -- 0 buy, 1 sell.
    side SMALLINT NOT NULL,
    -- Of the account and the client order ID (`index.rs`).
    hash BIGINT NOT NULL,
    client_order_id TEXT NOT NULL,
    worker BYTEA NOT NULL
);

-- What became of an order. An order without a row here is open. Never changed.
CREATE TABLE outcome (
    -- The order's number divided by 2^18.
    generation BIGINT NOT NULL,
    -- The order's: it is found by its owner and the owner's name for it.
    account BIGINT NOT NULL,
    hash BIGINT NOT NULL,
    -- The order.
    id BIGINT NOT NULL,
    -- Of a filled order only. The quantity may differ from what was asked when a split came with the
    -- snapshot that filled it.
    quantity BIGINT,
    price BIGINT,
    amount BIGINT,
    basis BIGINT,
    -- What was asked at last, if splits had changed it while the order was open.
    asked BIGINT,
    -- The snapshot whose settlement decided it; NULL if it was decided at another time: then
    snapshot BIGINT,
    -- these two say when.
    wall BIGINT,
    market BIGINT,
    -- 1 filled, 2 rejected, 3 cancelled, 4 expired.
    state SMALLINT NOT NULL,
    -- Of a rejected order: why.
    reason SMALLINT,
    PRIMARY KEY (generation, account, hash, id),
    CHECK ((snapshot IS NULL) = (wall IS NOT NULL))
);

-- Open orders that a settlement has left open, or a split has changed.
CREATE TABLE waiting (
    -- The order.
    id BIGINT PRIMARY KEY,
    -- What is asked now, if a split has changed it.
    quantity BIGINT,
    -- Why it waits.
    reason SMALLINT
) WITH (fillfactor = 70);

-- Client order IDs that were cancelled before an order with them came.
CREATE TABLE cancel_mark (
    account BIGINT NOT NULL REFERENCES account (id),
    client_order_id TEXT NOT NULL,
    wall BIGINT NOT NULL,
    market BIGINT NOT NULL,
    PRIMARY KEY (account, client_order_id)
);

-- Changes of money or shares that are not fills. The numbers grow in the order of the entries; they
-- may have gaps.
CREATE TABLE journal (
    id BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    account BIGINT NOT NULL REFERENCES account (id),
    -- Of a split: of what, the corporate action's number, and the snapshot that brought it.
    instrument BIGINT REFERENCES instrument (id),
    action BIGINT,
    snapshot BIGINT,
    -- Change of the position; 0 for a grant.
    quantity BIGINT NOT NULL,
    -- What a grant gave, or what a split paid for fractions.
    cash BIGINT NOT NULL,
    wall BIGINT NOT NULL,
    market BIGINT NOT NULL,
    -- 1 grant, 2 split.
    kind SMALLINT NOT NULL CHECK (kind IN (1, 2)),
    -- An account's entries, by age.
    PRIMARY KEY (account, id),
    CHECK ((kind = 2) = (instrument IS NOT NULL)),
    CHECK ((kind = 2) = (action IS NOT NULL)),
    CHECK ((kind = 2) = (snapshot IS NOT NULL)),
    CHECK (kind = 2 OR quantity = 0)
);

-- Sessions that have not ended, under the SHA-256 of their ID.
CREATE TABLE session (
    key BYTEA PRIMARY KEY CHECK (length(key) = 32),
    account BIGINT NOT NULL REFERENCES account (id),
    expires BIGINT NOT NULL,
    started BIGINT NOT NULL,
    -- When it was known to be in use last.
    used BIGINT NOT NULL,
    expirable SMALLINT NOT NULL CHECK (expirable IN (0, 1)),
    -- The address in its usual text form.
    client TEXT NOT NULL
) WITH (fillfactor = 70);

-- One row for each settlement. The last says where the books stand.
CREATE TABLE snapshot (
    number BIGINT PRIMARY KEY CHECK (number >= 1),
    wall BIGINT NOT NULL,
    market BIGINT NOT NULL,
    -- Market days so far.
    day BIGINT NOT NULL CHECK (day BETWEEN 0 AND 4294967295),
    -- The last corporate action applied.
    last_action BIGINT NOT NULL,
    -- The source has no later prices.
    ended SMALLINT NOT NULL CHECK (ended IN (0, 1))
);

-- The latest price of each instrument.
CREATE TABLE price (
    instrument BIGINT PRIMARY KEY REFERENCES instrument (id),
    price BIGINT NOT NULL CHECK (price > 0),
    -- When the price was made.
    time BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE bar (
    instrument BIGINT NOT NULL,
    start BIGINT NOT NULL,
    open BIGINT NOT NULL,
    high BIGINT NOT NULL,
    low BIGINT NOT NULL CHECK (low > 0),
    close BIGINT NOT NULL,
    volume BIGINT NOT NULL,
    -- 0 update interval, 1 hour, 2 day, 3 month.
    resolution SMALLINT NOT NULL CHECK (resolution BETWEEN 0 AND 3),
    PRIMARY KEY (instrument, resolution, start),
    CHECK (open BETWEEN low AND high),
    CHECK (close BETWEEN low AND high)
) WITH (fillfactor = 90);

CREATE TABLE worker (
    id BYTEA PRIMARY KEY CHECK (length(id) = 16),
    name TEXT NOT NULL UNIQUE,
    -- Addresses and networks, separated by commas.
    allowed TEXT NOT NULL,
    -- The OpenPGP public key, binary; NULL for a worker that was registered before keys were needed.
    key BYTEA,
    -- 1: it may not connect; until a wall time, or for good if that is NULL.
    booted SMALLINT NOT NULL DEFAULT 0 CHECK (booted IN (0, 1)),
    booted_until BIGINT CHECK (booted = 1 OR booted_until IS NULL),
    -- 1: what passed through it is in wrong hands.
    compromised SMALLINT NOT NULL DEFAULT 0 CHECK (compromised IN (0, booted))
);

-- Whose password or session passed through which worker since the password was chosen. It outlives
-- the worker's registration.
CREATE TABLE exposure (
    account BIGINT NOT NULL REFERENCES account (id),
    worker BYTEA NOT NULL CHECK (length(worker) = 16),
    PRIMARY KEY (account, worker)
);

-- Fingerprints of the keys of compromised workers: whoever broke in has them. For ever, whatever
-- becomes of the registration.
CREATE TABLE stolen_key (
    fingerprint TEXT PRIMARY KEY
);

-- The other sides of the double entry. The amounts are decimal text because they outgrow 64 bits.
CREATE TABLE named_account (
    name TEXT NOT NULL CHECK (name IN ('market', 'grants', 'fractions')),
    -- 0 for cash, else whose units.
    instrument BIGINT NOT NULL CHECK (instrument >= 0),
    amount TEXT NOT NULL,
    PRIMARY KEY (name, instrument),
    CHECK (instrument = 0 OR name = 'market')
) WITH (fillfactor = 50);

INSERT INTO named_account (name, instrument, amount)
VALUES ('market', 0, '0'), ('grants', 0, '0'), ('fractions', 0, '0');

-- Every posting of the double entry, derived from what is stored: a filled order gives four, a
-- grant two, a split four. `account` is a trader's account or NULL, then `named` says which named
-- account; `instrument` is NULL for cash. For any rows that come from one entry the amounts sum to
-- zero in each asset. For reports and checks; the program itself never reads it.
CREATE VIEW posting (source, source_id, account, named, instrument, amount) AS
WITH fill AS (
    SELECT order_.id AS id, order_.account AS account, instrument, outcome.quantity AS quantity, amount,
           CASE side WHEN 0 THEN 1 ELSE -1 END AS sign
    FROM outcome JOIN order_ ON order_.id = outcome.id WHERE state = 1
)
SELECT 'order', id, account, CAST(NULL AS TEXT), CAST(NULL AS BIGINT), -sign * amount FROM fill
UNION ALL
SELECT 'order', id, NULL, 'market', NULL, sign * amount FROM fill
UNION ALL
SELECT 'order', id, account, NULL, instrument, sign * quantity FROM fill
UNION ALL
SELECT 'order', id, NULL, 'market', instrument, -sign * quantity FROM fill
UNION ALL
SELECT 'journal', id, account, NULL, NULL, cash FROM journal
UNION ALL
SELECT 'journal', id, NULL, CASE kind WHEN 1 THEN 'grants' ELSE 'fractions' END, NULL, -cash
FROM journal
UNION ALL
SELECT 'journal', id, account, NULL, instrument, quantity FROM journal WHERE kind = 2
UNION ALL
SELECT 'journal', id, NULL, 'market', instrument, -quantity FROM journal WHERE kind = 2;
