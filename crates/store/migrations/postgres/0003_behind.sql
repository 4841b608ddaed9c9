-- What an account owns stands in its balance, and balances may be behind the outcomes
-- (docs/design/0007-behind.md).
--
-- An outcome is not yet in its account's balance if its snapshot is later than both
-- `balance.snapshot` and `meta.folded_snapshot`: a start adds it. Its generation is then not before
-- `meta.folded_generation`.

-- The settlement that wrote this row last.
ALTER TABLE balance ADD COLUMN snapshot BIGINT NOT NULL DEFAULT 0 CHECK (snapshot >= 0);
-- JSON: [[instrument, quantity, cost], …], by instrument.
ALTER TABLE balance ADD COLUMN positions TEXT NOT NULL DEFAULT '[]';

ALTER TABLE meta ADD COLUMN
    folded_snapshot BIGINT NOT NULL DEFAULT 0 CHECK (folded_snapshot >= 0);
ALTER TABLE meta ADD COLUMN
    folded_generation BIGINT NOT NULL DEFAULT 0 CHECK (folded_generation >= 0);

-- Until now each settlement wrote all that it changed.
UPDATE meta SET folded_snapshot = (SELECT coalesce(max(number), 0) FROM snapshot),
    folded_generation = settled_order / 262144;

UPDATE balance SET positions = held.positions FROM (
    SELECT account, '[' || string_agg(
        '[' || instrument || ',' || quantity || ',' || cost || ']', ',' ORDER BY instrument
    ) || ']' AS positions
    FROM position GROUP BY account
) AS held WHERE held.account = balance.account;

DROP TABLE position;

-- What each account owns, as far as its balance has it. For reports and checks; the program itself never
-- reads it.
CREATE VIEW position (account, instrument, quantity, cost) AS
SELECT account, CAST(p.value ->> 0 AS BIGINT), CAST(p.value ->> 1 AS BIGINT),
       CAST(p.value ->> 2 AS BIGINT)
FROM balance CROSS JOIN LATERAL json_array_elements(CAST(positions AS JSON)) AS p (value);
