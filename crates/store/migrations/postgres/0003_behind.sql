-- Balances and positions may be behind the outcomes (docs/design/0007-behind.md).
--
-- An outcome is not yet in its account's balance and position if its snapshot is later than both
-- `balance.snapshot` and `meta.folded_snapshot`: a start adds it. Its generation is then not before
-- `meta.folded_generation`.

-- The settlement that wrote this row last, and with it the account's positions.
ALTER TABLE balance ADD COLUMN snapshot BIGINT NOT NULL DEFAULT 0 CHECK (snapshot >= 0);

ALTER TABLE meta ADD COLUMN
    folded_snapshot BIGINT NOT NULL DEFAULT 0 CHECK (folded_snapshot >= 0);
ALTER TABLE meta ADD COLUMN
    folded_generation BIGINT NOT NULL DEFAULT 0 CHECK (folded_generation >= 0);

-- Until now each settlement wrote all that it changed.
UPDATE meta SET folded_snapshot = (SELECT coalesce(max(number), 0) FROM snapshot),
    folded_generation = settled_order / 262144;
