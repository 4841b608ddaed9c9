\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
\set n random(1, 10)
\set r random(0, 4)
\set i (:u * 7 + :r * 101) % :instruments
\set q -:n
BEGIN;
SELECT account AS a FROM session WHERE token = :t AND active AND expires > now() \gset
SELECT price FROM quote WHERE symbol = :i \gset
SELECT cash FROM account WHERE id = :a FOR UPDATE \gset
SELECT coalesce((SELECT quantity FROM position WHERE account = :a AND symbol = :i), 0) AS held \gset
\set fills :held + :q >= 0
\set cost :price * :q
\if :fills
UPDATE account SET cash = cash - :cost WHERE id = :a;
INSERT INTO position AS x VALUES (:a, :i, :q, :cost) ON CONFLICT (account, symbol) DO UPDATE SET quantity = x.quantity + excluded.quantity, cost = x.cost + excluded.cost;
INSERT INTO trade(account, symbol, quantity, price, state) VALUES (:a, :i, :q, :price, 1);
\else
INSERT INTO trade(account, symbol, quantity, price, state) VALUES (:a, :i, :q, :price, 0);
\endif
COMMIT;
