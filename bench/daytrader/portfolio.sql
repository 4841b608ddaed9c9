\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
SELECT p.symbol, p.quantity, p.cost, q.price, p.quantity * q.price AS worth FROM session s JOIN position p ON p.account = s.account JOIN quote q USING (symbol) WHERE s.token = :t AND s.active AND s.expires > now() ORDER BY p.symbol;
