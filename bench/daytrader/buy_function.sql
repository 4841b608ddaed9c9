\if :u = 0
SELECT account AS u, token AS t FROM session WHERE turn = (SELECT nextval('turns')) \gset
\endif
\set n random(1, 10)
\set r random(0, 4)
\set i (:u * 7 + :r * 101) % :instruments
\set q :n
SELECT trade(:t, :i, :q);
