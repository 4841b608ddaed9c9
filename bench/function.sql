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
SELECT trade(:a, :s, :q);
