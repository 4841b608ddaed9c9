\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
SELECT a.name, a.email, a.cash, a.granted, a.since, (SELECT sum(p.quantity * q.price) FROM position p JOIN quote q USING (symbol) WHERE p.account = a.id) AS worth FROM session s JOIN account a ON a.id = s.account WHERE s.token = :t AND s.active AND s.expires > now();
SELECT p.symbol, p.quantity, p.cost, q.price, p.quantity * q.price AS worth FROM session s JOIN position p ON p.account = s.account JOIN quote q USING (symbol) WHERE s.token = :t AND s.active AND s.expires > now() ORDER BY p.symbol;
