\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
UPDATE session SET active = false WHERE token = :t AND active AND expires > now();
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
