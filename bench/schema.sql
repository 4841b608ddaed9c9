-- The tables that one would write for a paper market at first: 100,000 accounts, 500 symbols, and five
-- positions of each account, the state that `papertrader bench settle` begins with.
CREATE TABLE account(id int4 PRIMARY KEY, cash int8 NOT NULL);
CREATE TABLE quote(symbol int4 PRIMARY KEY, price int8 NOT NULL);
CREATE TABLE position(account int4, symbol int4, quantity int8 NOT NULL, cost int8 NOT NULL,
  PRIMARY KEY(account, symbol));
CREATE TABLE trade(id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int4 NOT NULL,
  symbol int4 NOT NULL, quantity int4 NOT NULL, price int8 NOT NULL, state int2 NOT NULL,
  at timestamptz NOT NULL DEFAULT now());
INSERT INTO quote SELECT s, 10000 + 100 * s FROM generate_series(0, 499) s;
INSERT INTO account SELECT a, 100000000 FROM generate_series(1, :accounts) a;
INSERT INTO position SELECT a, (a * 7 + r * 101) % 500, 100, 1000000
  FROM generate_series(1, :accounts) a, generate_series(0, 4) r;

-- The same in one round trip.
CREATE FUNCTION trade(a int4, s int4, q int4) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE p int8; c int8; h int8; fills bool;
BEGIN
  SELECT price INTO p FROM quote WHERE symbol = s;
  SELECT cash INTO c FROM account WHERE id = a FOR UPDATE;
  IF q > 0 THEN
    fills := c >= p * q;
  ELSE
    SELECT quantity INTO h FROM position WHERE account = a AND symbol = s;
    fills := coalesce(h, 0) >= -q;
  END IF;
  IF fills THEN
    UPDATE account SET cash = cash - p * q WHERE id = a;
    INSERT INTO position AS x VALUES (a, s, q, p * q) ON CONFLICT (account, symbol)
      DO UPDATE SET quantity = x.quantity + excluded.quantity, cost = x.cost + excluded.cost;
  END IF;
  INSERT INTO trade(account, symbol, quantity, price, state) VALUES (a, s, q, p, fills::int);
  RETURN fills;
END $$;
VACUUM ANALYZE;
CHECKPOINT;
