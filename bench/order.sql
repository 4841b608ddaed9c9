\set a random(1, :accounts)
\set sells random(0, 2)
\set n random(1, 10)
\set r random(0, 4)
\set s (:a * 7 + :r * 101) % 500
\if :sells = 0
\set q -:n
\else
\set q :n
\endif
BEGIN;
SELECT price FROM quote WHERE symbol = :s \gset
SELECT cash FROM account WHERE id = :a FOR UPDATE \gset
\if :q < 0
SELECT coalesce((SELECT quantity FROM position WHERE account = :a AND symbol = :s), 0) AS held \gset
\set fills :held + :q >= 0
\else
\set fills :cash >= :price * :q
\endif
\set cost :price * :q
\if :fills
UPDATE account SET cash = cash - :cost WHERE id = :a;
INSERT INTO position AS x VALUES (:a, :s, :q, :cost) ON CONFLICT (account, symbol) DO UPDATE SET quantity = x.quantity + excluded.quantity, cost = x.cost + excluded.cost;
INSERT INTO trade(account, symbol, quantity, price, state) VALUES (:a, :s, :q, :price, 1);
\else
INSERT INTO trade(account, symbol, quantity, price, state) VALUES (:a, :s, :q, :price, 0);
\endif
COMMIT;
