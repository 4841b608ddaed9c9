-- Workers that prove a key and can be sent away, passwords that are due, sessions that idle out,
-- and what passed through which worker. The conventions are those of 0001.

-- 1: the owner must choose a new password before anything else.
ALTER TABLE account ADD COLUMN
    password_due INTEGER NOT NULL DEFAULT 0 CHECK (password_due IN (0, 1));

-- When it was known to be in use last. Of a session from before: when it was started.
ALTER TABLE session ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE session SET used = started;

-- The OpenPGP public key, binary; NULL for a worker that was registered before keys were needed.
ALTER TABLE worker ADD COLUMN key BLOB;
-- 1: it may not connect; until a wall time, or for good if that is NULL.
ALTER TABLE worker ADD COLUMN
    booted INTEGER NOT NULL DEFAULT 0 CHECK (booted IN (0, 1));
ALTER TABLE worker ADD COLUMN
    booted_until INTEGER CHECK (booted = 1 OR booted_until IS NULL);
-- 1: what passed through it is in wrong hands.
ALTER TABLE worker ADD COLUMN
    compromised INTEGER NOT NULL DEFAULT 0 CHECK (compromised IN (0, booted));

-- Whose password or session passed through which worker since the password was chosen. It outlives
-- the worker's registration.
CREATE TABLE exposure (
    account INTEGER NOT NULL REFERENCES account (id),
    worker BLOB NOT NULL CHECK (length(worker) = 16),
    PRIMARY KEY (account, worker)
) STRICT, WITHOUT ROWID;

-- Nobody knows what passed through whom before: everybody through everyone, to be safe.
INSERT INTO exposure (account, worker) SELECT account.id, worker.id FROM account, worker;

-- Fingerprints of the keys of compromised workers: whoever broke in has them. For ever, whatever
-- becomes of the registration.
CREATE TABLE stolen_key (
    fingerprint TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
