\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
\set s random(0, :instruments - 1)
SELECT q.symbol, q.price, q.previous_close, q.at FROM session s, quote q WHERE s.token = :t AND s.active AND s.expires > now() AND q.symbol = :s;
