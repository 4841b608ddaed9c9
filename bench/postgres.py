"""A PostgreSQL of its own for the programs beside this file, and what they run.

It is in a directory that is removed in the end, with synchronous_commit = on; a running one is not touched, and
nothing is installed.
"""

import glob
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
USER = "papertrader"
PROGRAMS = ("initdb", "pg_ctl", "psql", "createdb", "pgbench")


def fail(text):
    print(f"bench/{os.path.basename(sys.argv[0])}: {text}", file=sys.stderr)
    sys.exit(1)


def tool(name):
    """A program of PostgreSQL. Debian keeps the server's off the path; newest version first."""
    version = lambda path: [int(n) for n in re.findall(r"\d+", path)]
    kept = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=version)
    path = kept[-1] if kept else shutil.which(name)
    if not path:
        fail(f"{name} is missing: install PostgreSQL 15 or newer with its contrib programs (Debian: "
             "apt-get install postgresql)")
    return path


def papertrader(given):
    path = given or os.path.join(HERE, "../target/release/papertrader")
    if not os.access(path, os.X_OK):
        fail(f"{path} is missing: cargo build --release, or say --papertrader FILE")
    return os.path.abspath(path)


class Postgres:
    """A server on a Unix socket in a directory of its own. PostgreSQL does not run as root."""

    def __init__(self, parent):
        self.home = tempfile.mkdtemp(prefix="papertrader-postgres-", dir=parent)
        # The name of a socket is short.
        self.socket = tempfile.mkdtemp(prefix="pt-")
        self.user = None
        if os.geteuid() == 0:
            try:
                self.user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                self.remove()
                fail("PostgreSQL does not run as root, and there is no user postgres: run this as another user")
            for path in (self.home, self.socket):
                shutil.chown(path, self.user, self.user)
        self.data = os.path.join(self.home, "data")

    def start(self, *databases):
        self.server("initdb", "-D", self.data, "-A", "trust", "-E", "UTF8", "--locale=C", "-U", USER)
        with open(os.path.join(self.data, "postgresql.conf"), "a") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{self.socket}'\n"
                       "shared_buffers = 512MB\nmax_wal_size = 8GB\ncheckpoint_timeout = 30min\n"
                       "fsync = on\nsynchronous_commit = on\nmax_connections = 100\n")
        self.server("pg_ctl", "-D", self.data, "-l", os.path.join(self.data, "log"), "-w", "start")
        for name in databases:
            self.client("createdb", name)

    def stop(self):
        if os.path.exists(os.path.join(self.data, "postmaster.pid")):
            self.server("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def remove(self):
        for path in (self.home, self.socket):
            shutil.rmtree(path, ignore_errors=True)

    def url(self, name):
        return f"postgresql://{USER}@{self.socket.replace('/', '%2F')}/{name}"

    def run_sql(self, database, file, **variables):
        given = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        self.client("psql", "-q", "-v", "ON_ERROR_STOP=1", *given, "-f", file, database)

    def pgbench(self, database, clients, seconds, scripts, **variables):
        """Transactions a second of scripts, each a file or FILE@WEIGHT, and all that pgbench said."""
        given = [word for name, value in variables.items() for word in ("-D", f"{name}={value}")]
        files = [word for script in scripts for word in ("-f", script)]
        said = self.client("pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "2",
                           "-T", str(seconds), *given, *files, database)
        return float(re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE).group(1)), said

    def server(self, name, *arguments):
        run([tool(name), *arguments], user=self.user, cwd=self.home)

    def client(self, name, *arguments):
        return run([tool(name), "-h", self.socket, "-U", USER, *arguments])


def run(command, **how):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return done.stdout


def note(text):
    if sys.stderr.isatty():
        print(f"… {text}", file=sys.stderr)
