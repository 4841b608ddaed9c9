-- Orders are written once, and nothing that grows with history is written in random order
-- (docs/design/0003-ledger.md). The conventions are those of 0001.
--
-- `order_hash(account, client_order_id)` is the program's: see `index.rs`.

DROP VIEW posting;

-- Every order that was ever judged, as it was asked. Never changed.
CREATE TABLE order_new (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    client_order_id TEXT NOT NULL,
    -- 0 buy, 1 sell.
    side INTEGER NOT NULL,
    instrument INTEGER NOT NULL,
    -- What was asked at first.
    quantity INTEGER NOT NULL,
    -- Cash that a buy holds while it is open.
    hold INTEGER NOT NULL,
    received_wall INTEGER NOT NULL,
    received_market INTEGER NOT NULL,
    -- The snapshot that was current when it came; 0 before the first.
    seen INTEGER NOT NULL,
    day INTEGER NOT NULL,
    worker BLOB NOT NULL,
    worker_time INTEGER NOT NULL,
    worker_sequence INTEGER NOT NULL,
    -- Of the account and the client order ID, as the signed number with the same bits.
    hash INTEGER NOT NULL
) STRICT;

-- What became of an order. An order without a row here is open. Never changed.
CREATE TABLE outcome (
    -- The order's number divided by 2^18.
    generation INTEGER NOT NULL,
    -- The order's.
    account INTEGER NOT NULL,
    -- The order's: it is found by its owner and the owner's name for it.
    hash INTEGER NOT NULL,
    -- The order.
    id INTEGER NOT NULL,
    -- 1 filled, 2 rejected, 3 cancelled, 4 expired.
    state INTEGER NOT NULL,
    -- Of a rejected order: why.
    reason INTEGER,
    -- What was asked at last, if splits had changed it while the order was open.
    asked INTEGER,
    -- Of a filled order only. The quantity may differ from what was asked when a split came with the
    -- snapshot that filled it.
    quantity INTEGER,
    price INTEGER,
    amount INTEGER,
    basis INTEGER,
    -- The snapshot whose settlement decided it; NULL if it was decided at another time: then
    snapshot INTEGER,
    -- these two say when.
    wall INTEGER,
    market INTEGER,
    PRIMARY KEY (generation, account, hash, id),
    CHECK ((snapshot IS NULL) = (wall IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Open orders that a settlement has left open, or a split has changed.
CREATE TABLE waiting (
    -- The order.
    id INTEGER PRIMARY KEY,
    -- What is asked now, if a split has changed it.
    quantity INTEGER,
    -- Why it waits.
    reason INTEGER
) STRICT;

CREATE TABLE balance (
    account INTEGER PRIMARY KEY,
    cash INTEGER NOT NULL CHECK (cash >= 0),
    -- All cash ever granted.
    granted INTEGER NOT NULL
) STRICT;

-- The last order that existed at the last settlement: an open one with a higher number is not in
-- `waiting`, one with a lower number is.
ALTER TABLE meta ADD COLUMN settled_order INTEGER NOT NULL DEFAULT 0 CHECK (settled_order >= 0);

INSERT INTO order_new
SELECT id, account, client_order_id, side, instrument, asked, hold, received_wall, received_market,
       seen, day, worker, worker_time, worker_sequence, order_hash(account, client_order_id)
FROM order_ ORDER BY id;

INSERT INTO outcome
SELECT id >> 18 AS generation, account, order_hash(account, client_order_id) AS hash, id, state,
       reason, iif(quantity <> asked, quantity, NULL), fill_quantity, fill_price, fill_amount,
       fill_basis, fill_snapshot, iif(fill_snapshot IS NULL, decided_wall, NULL),
       iif(fill_snapshot IS NULL, decided_market, NULL)
FROM order_ WHERE state <> 0 ORDER BY generation, account, hash, id;

INSERT INTO waiting
SELECT id, iif(quantity <> asked, quantity, NULL), reason FROM order_ WHERE state = 0 ORDER BY id;

UPDATE meta SET settled_order = (SELECT coalesce(max(id), 0) FROM order_);

INSERT INTO balance SELECT id, cash, granted FROM account ORDER BY id;

DROP TABLE order_;
ALTER TABLE order_new RENAME TO order_;
ALTER TABLE account DROP COLUMN cash;
ALTER TABLE account DROP COLUMN granted;

-- Every posting of the double entry, derived from what is stored: a filled order gives four, a
-- grant two, a split four. `account` is a trader's account or NULL, then `named` says which named
-- account; `instrument` is NULL for cash. For any rows that come from one entry the amounts sum to
-- zero in each asset. For reports and checks; the program itself never reads it.
CREATE VIEW posting (source, source_id, account, named, instrument, amount) AS
WITH fill AS (
    SELECT order_.id AS id, order_.account AS account, side, instrument, outcome.quantity AS quantity, amount
    FROM outcome JOIN order_ ON order_.id = outcome.id WHERE state = 1
)
SELECT 'order', id, account, NULL, NULL, iif(side = 0, -amount, amount) FROM fill
UNION ALL
SELECT 'order', id, NULL, 'market', NULL, iif(side = 0, amount, -amount) FROM fill
UNION ALL
SELECT 'order', id, account, NULL, instrument, iif(side = 0, quantity, -quantity) FROM fill
UNION ALL
SELECT 'order', id, NULL, 'market', instrument, iif(side = 0, -quantity, quantity) FROM fill
UNION ALL
SELECT 'journal', id, account, NULL, NULL, cash FROM journal
UNION ALL
SELECT 'journal', id, NULL, iif(kind = 1, 'grants', 'fractions'), NULL, -cash FROM journal
UNION ALL
SELECT 'journal', id, account, NULL, instrument, quantity FROM journal WHERE kind = 2
UNION ALL
SELECT 'journal', id, NULL, 'market', instrument, -quantity FROM journal WHERE kind = 2;
