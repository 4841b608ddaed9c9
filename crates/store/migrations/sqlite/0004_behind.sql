-- What an account owns stands in its balance, and balances may be behind the outcomes
-- (docs/design/0007-behind.md). The conventions are those of 0001.
--
-- An outcome is not yet in its account's balance if its snapshot is later than both
-- `balance.snapshot` and `meta.folded_snapshot`: a start adds it. Its generation is then not before
-- `meta.folded_generation`.

-- The settlement that wrote this row last.
ALTER TABLE balance ADD COLUMN snapshot INTEGER NOT NULL DEFAULT 0 CHECK (snapshot >= 0);
-- JSON: [[instrument, quantity, cost], …], by instrument.
ALTER TABLE balance ADD COLUMN positions TEXT NOT NULL DEFAULT '[]';

ALTER TABLE meta ADD COLUMN
    folded_snapshot INTEGER NOT NULL DEFAULT 0 CHECK (folded_snapshot >= 0);
ALTER TABLE meta ADD COLUMN
    folded_generation INTEGER NOT NULL DEFAULT 0 CHECK (folded_generation >= 0);

-- Until now each settlement wrote all that it changed.
UPDATE meta SET folded_snapshot = (SELECT coalesce(max(number), 0) FROM snapshot),
    folded_generation = settled_order >> 18;

UPDATE balance SET positions = (
    SELECT json_group_array(json_array(instrument, quantity, cost)) FROM (
        SELECT instrument, quantity, cost FROM position
        WHERE position.account = balance.account ORDER BY instrument
    )
) WHERE account IN (SELECT account FROM position);

DROP TABLE position;

-- What each account owns, as far as its balance has it. For reports and checks; the program itself never
-- reads it.
CREATE VIEW position (account, instrument, quantity, cost) AS
SELECT account, json_extract(p.value, '$[0]'), json_extract(p.value, '$[1]'),
       json_extract(p.value, '$[2]')
FROM balance, json_each(positions) AS p;
