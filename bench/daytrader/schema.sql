-- The tables that one would write for the operations of DayTrader at first: users with cash, sessions and five
-- positions each, and prices, the state that `papertrader bench mix` begins with.
CREATE TABLE account(id int4 PRIMARY KEY, name text NOT NULL UNIQUE, email text NOT NULL,
  cash int8 NOT NULL, granted int8 NOT NULL, since timestamptz NOT NULL DEFAULT now());
CREATE TABLE session(token uuid PRIMARY KEY, account int4 NOT NULL REFERENCES account,
  expires timestamptz NOT NULL, active bool NOT NULL DEFAULT true, turn int8 NOT NULL);
-- Who comes next, with a session that there is: in no order, and each once.
CREATE SEQUENCE turns CACHE 100;
CREATE TABLE quote(symbol int4 PRIMARY KEY, price int8 NOT NULL, previous_close int8 NOT NULL,
  at timestamptz NOT NULL DEFAULT now());
CREATE TABLE position(account int4, symbol int4, quantity int8 NOT NULL, cost int8 NOT NULL,
  PRIMARY KEY(account, symbol));
CREATE TABLE trade(id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int4 NOT NULL,
  symbol int4 NOT NULL, quantity int4 NOT NULL, price int8 NOT NULL, state int2 NOT NULL,
  at timestamptz NOT NULL DEFAULT now());
INSERT INTO quote SELECT s, 10000 + s, 9990 + s FROM generate_series(0, :instruments - 1) s;
INSERT INTO account SELECT a, 'trader-' || a, a || '@example.org', 100000000, 100000000
  FROM generate_series(1, :users) a;
INSERT INTO session SELECT gen_random_uuid(), a, now() + interval '1 day', true,
    row_number() OVER (ORDER BY random())
  FROM generate_series(1, :users) a, generate_series(1, :sessions) n;
CREATE UNIQUE INDEX ON session(turn);
INSERT INTO position SELECT a, (a * 7 + r * 101) % :instruments, 100, 1000000
  FROM generate_series(1, :users) a, generate_series(0, 4) r;
-- An order in one round trip, its session looked at too.
CREATE FUNCTION trade(t uuid, s int4, q int4) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE a int4; p int8; c int8; h int8; fills bool;
BEGIN
  SELECT account INTO STRICT a FROM session WHERE token = t AND active AND expires > now();
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
