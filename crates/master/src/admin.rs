//! The operator's way to the running master: a Unix socket in its data directory, one JSON line
//! for a request and one for the answer.
//!
//! Here are the socket and its connections. What is said over it stands in [`message`], the
//! program's end in [`client`]; the driver answers (`reads`, `changes`), but for what concerns whole
//! books ([`books`]).
//!
//! Invariants: the socket exists only in a directory that nobody else may enter; only the master's
//! own user and root are listened to; a connection holds at most one request and one answer, and
//! there are at most [`CONNECTIONS`] of them.

pub mod books;
pub(crate) mod changes;
pub mod client;
pub mod message;
pub(crate) mod reads;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use papertrader_node::{error, warn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::driver::{Event, Events};
use books::Asked;
pub(crate) use books::Books;

pub use client::{Client, ClientError};
pub use message::{AdminError, AdminReply, AdminRequest};

/// The socket's name in the data directory.
pub const SOCKET: &str = "admin.sock";
/// Connections at a time; more are told to wait.
pub const CONNECTIONS: usize = 16;

/// How long a connection may do what it has begun, or do nothing.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// From a request's first byte to its last, and for the answer to be taken.
    line: Duration,
    /// Between two requests.
    idle: Duration,
}

const PATIENCE: Patience =
    Patience { line: Duration::from_secs(10), idle: Duration::from_secs(60) };

/// Where an answer goes.
pub(crate) type Answer = oneshot::Sender<AdminReply>;

/// Why the master is not started with this data directory.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory cannot be looked at.
    #[error("cannot use the data directory {dir}: {error}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others may enter the directory, and would reach the socket and the database.
    #[error(
        "the data directory {dir} is open to other users of this machine (its mode is {mode:o}): \
         chmod 700 {dir}"
    )]
    NotPrivate {
        /// The directory.
        dir: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The directory is another user's.
    #[error(
        "the data directory {dir} belongs to user {owner}, but the master runs as user {own}: run it \
         as its owner, or chown the directory"
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who the master is.
        own: u32,
    },
}

/// The socket, and who may speak over it.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    own: u32,
    path: PathBuf,
}

impl AdminSocket {
    /// Makes the socket in a data directory that this process has locked: what is left of an
    /// earlier one is replaced.
    ///
    /// `None` if the directory is right but no socket can be made in it, which is logged: the
    /// master can do without.
    pub(crate) fn open(dir: &Path) -> Result<Option<AdminSocket>, SocketError> {
        let failed = |error| SocketError::Directory { dir: dir.to_owned(), error };
        let opened = File::open(dir).map_err(failed)?;
        let data = opened.metadata().map_err(failed)?;
        let own = own_user().map_err(failed)?;
        let (owner, mode) = (data.uid(), data.mode() & 0o777);
        if owner != own {
            return Err(SocketError::NotOurs { dir: dir.to_owned(), owner, own });
        }
        if mode & 0o077 != 0 {
            return Err(SocketError::NotPrivate { dir: dir.to_owned(), mode });
        }
        let path = dir.join(SOCKET);
        match listen(&opened, &path) {
            Ok(listener) => Ok(Some(AdminSocket { listener, own, path })),
            Err(error) => {
                error!(path = %path.display(), %error,
                    "no admin socket: the operator's commands do not reach this master");
                Ok(None)
            }
        }
    }

    /// Takes connections until it is aborted.
    pub(crate) async fn accept(&self, events: Events, books: Arc<Books>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, usually: others must close before it can go on.
                    warn!(%error, "an operator's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match stream.peer_cred().map(|peer| peer.uid()) {
                Ok(user) if user == self.own || user == 0 => {}
                Ok(user) => {
                    warn!(user, "another user came to the admin socket and was sent away");
                    continue;
                }
                Err(error) => {
                    warn!(%error, "who comes to the admin socket cannot be told: sent away");
                    continue;
                }
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                refuse_at_once(stream);
                continue;
            };
            let (events, books) = (events.clone(), Arc::clone(&books));
            tokio::spawn(async move {
                serve(stream, &events, &books, PATIENCE).await;
                drop(place);
            });
        }
    }

    /// Takes the socket away. No master may have made its own in the meantime.
    pub(crate) fn remove(&self) {
        // Whatever is left is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who this process is.
fn own_user() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Listens at `path`, which lies in the open directory `dir`.
fn listen(dir: &File, path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            let what = format!("{} is there and is no socket: remove it", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = reach(dir, path, unix::UnixListener::bind)?;
    // Nobody else can have come in between: the directory is closed to them.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Binds or connects to the socket at `path`, which lies in the open directory `dir`. The address
/// of a socket has about 100 bytes; to a longer path the kernel is led through the directory.
fn reach<T>(dir: &File, path: &Path, call: impl Fn(PathBuf) -> io::Result<T>) -> io::Result<T> {
    match call(path.to_owned()) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        result => return result,
    }
    if cfg!(target_os = "linux") {
        use std::os::fd::AsRawFd;
        return call(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())));
    }
    let what = "the path is too long for a socket on this system: choose a shorter data directory";
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Tells one that is too many so, and closes. A new connection has room for a line.
fn refuse_at_once(stream: UnixStream) {
    let line = encode(&AdminError::TooManyConnections.into());
    let _ = stream.try_write(&line);
}

/// Serves one connection until it closes, is silent, or says what is no request.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    events: &Events,
    books: &Books,
    patience: Patience,
) {
    let mut buffer = Vec::new();
    loop {
        let (reply, close) = match line(&mut stream, &mut buffer, patience).await {
            Line::Request(line) => match serde_json::from_slice(&line) {
                Ok(request) => match Asked::of(request) {
                    Ok(asked) => (books.answer(asked, &mut stream, patience).await, false),
                    Err(request) => (ask(request, events).await, false),
                },
                Err(error) => (AdminError::BadRequest(error.to_string()).into(), false),
            },
            // Where the next line begins is anybody's guess.
            Line::TooLong => (AdminError::RequestTooLong.into(), true),
            Line::End => return,
        };
        let taken = timeout(patience.line, stream.write_all(&encode(&reply))).await;
        if close || !matches!(taken, Ok(Ok(()))) {
            return;
        }
    }
}

/// What comes next on a connection.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Request(Vec<u8>),
    TooLong,
    /// It has closed, or was too slow.
    End,
}

/// Reads the next line; what follows it stays in `buffer`.
async fn line<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut Vec<u8>,
    patience: Patience,
) -> Line {
    let mut deadline = Instant::now() + patience.idle;
    let mut begun = false;
    let mut seen = 0;
    loop {
        if let Some(end) = buffer[seen..].iter().position(|byte| *byte == b'\n') {
            let rest = buffer.split_off(seen + end + 1);
            return Line::Request(std::mem::replace(buffer, rest));
        }
        seen = buffer.len();
        if seen >= message::MAX_REQUEST {
            return Line::TooLong;
        }
        if !begun && seen > 0 {
            begun = true;
            deadline = Instant::now() + patience.line;
        }
        let room = (message::MAX_REQUEST - seen) as u64;
        let mut limited = (&mut *reader).take(room);
        match timeout_at(deadline, limited.read_buf(buffer)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return Line::End,
        }
    }
}

/// Hands a request to the driver and waits for its answer.
async fn ask(request: AdminRequest, events: &Events) -> AdminReply {
    let (answer, reply) = oneshot::channel();
    if events.send(Event::Admin(request, answer)).await.is_err() {
        return AdminError::ShuttingDown.into();
    }
    // The driver ends without an answer only when the master does.
    reply.await.unwrap_or_else(|_| AdminError::ShuttingDown.into())
}

fn encode(reply: &AdminReply) -> Vec<u8> {
    let mut line = match serde_json::to_vec(reply) {
        Ok(line) if line.len() < message::MAX_REPLY => line,
        _ => serde_json::to_vec(&AdminReply::from(AdminError::ReplyTooLong)).unwrap_or_default(),
    };
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const SHORT: Patience = Patience { line: Duration::from_millis(1), idle: PATIENCE.idle };

    /// A directory as the data directory should be.
    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        dir
    }

    fn no_books() -> Arc<Books> {
        Arc::new(Books::new(papertrader_store::Location::file(Path::new("none"))))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_replaces_a_stale_one() {
        let dir = private();
        let path = dir.path().join(SOCKET);
        let first = AdminSocket::open(dir.path()).unwrap().unwrap();
        assert_eq!((mode(dir.path()), mode(&path)), (0o700, 0o600));
        // As after a crash: the file is left, and nobody listens.
        drop(first);
        assert!(path.exists());
        let second = AdminSocket::open(dir.path()).unwrap().unwrap();
        UnixStream::connect(&path).await.unwrap();
        second.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_directory_that_others_may_enter_is_refused_with_the_remedy() {
        let dir = private();
        for mode in [0o755, 0o710, 0o701] {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let refused = AdminSocket::open(dir.path()).err().unwrap();
            assert!(matches!(&refused, SocketError::NotPrivate { mode: m, .. } if *m == mode));
            let words = refused.to_string();
            assert!(words.contains(&format!("chmod 700 {}", dir.path().display())), "{words}");
        }
        let missing = AdminSocket::open(&dir.path().join("none")).err().unwrap();
        assert!(matches!(missing, SocketError::Directory { .. }), "{missing}");
    }

    #[tokio::test]
    async fn what_is_no_socket_stays_and_the_master_goes_on_without() {
        let dir = private();
        std::fs::write(dir.path().join(SOCKET), "mine").unwrap();
        assert!(AdminSocket::open(dir.path()).unwrap().is_none());
        assert_eq!(std::fs::read(dir.path().join(SOCKET)).unwrap(), b"mine");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_deep_directory_has_its_socket_too() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        for _ in 0..2 {
            let socket = AdminSocket::open(&dir).unwrap().unwrap();
            assert_eq!(mode(&dir.join(SOCKET)), 0o600);
            let (events, mut inbox) = mpsc::channel(1);
            let asked = tokio::task::spawn_blocking({
                let dir = dir.clone();
                move || Client::connect(&dir)?.ask(&AdminRequest::Status {})
            });
            tokio::select! {
                () = socket.accept(events, no_books()) => {}
                Some(Event::Admin(_, answer)) = inbox.recv() => {
                    answer.send(AdminError::Unavailable.into()).unwrap();
                    // The connection is a task of its own.
                    let refused = asked.await.unwrap().unwrap_err();
                    assert_eq!(refused.code(), "unavailable");
                }
            }
        }
    }

    /// The other end of a connection whose requests are all answered with `unavailable`.
    fn connection(patience: Patience) -> tokio::io::DuplexStream {
        let (ours, theirs) = tokio::io::duplex(MOST);
        let (events, mut inbox) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Event::Admin(_, answer)) = inbox.recv().await {
                answer.send(AdminError::Unavailable.into()).unwrap();
            }
        });
        tokio::spawn(async move { serve(theirs, &events, &no_books(), patience).await });
        ours
    }
    const MOST: usize = 2 * message::MAX_REQUEST;

    /// All that is answered until the connection closes.
    async fn said(mut stream: tokio::io::DuplexStream) -> Vec<String> {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let codes = text.lines().map(|line| match serde_json::from_str(line).unwrap() {
            AdminReply::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        });
        codes.collect()
    }

    #[tokio::test]
    async fn each_line_is_answered_and_nonsense_too() {
        let mut stream = connection(PATIENCE);
        let lines = b"{\"command\":\"status\"}\nnonsense\n\n\xff\xfe\n{\"command\":\"status\"}\n";
        stream.write_all(lines).await.unwrap();
        stream.shutdown().await.unwrap();
        let bad = "badRequest";
        assert_eq!(said(stream).await, ["unavailable", bad, bad, bad, "unavailable"]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_ends_the_connection() {
        let mut longest = vec![b' '; message::MAX_REQUEST - 1];
        longest.push(b'\n');
        let mut stream = connection(PATIENCE);
        stream.write_all(&longest).await.unwrap();
        stream.write_all(&longest[1..]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(said(stream).await, ["badRequest", "badRequest"]);
        let mut stream = connection(PATIENCE);
        stream.write_all(&[b' '; message::MAX_REQUEST]).await.unwrap();
        stream.write_all(b"\n{\"command\":\"status\"}\n").await.unwrap();
        assert_eq!(said(stream).await, ["requestTooLong"]);
    }

    #[tokio::test]
    async fn half_a_line_is_not_waited_for() {
        let mut stream = connection(SHORT);
        stream.write_all(b"{\"command\":\"status\"}\n{\"comm").await.unwrap();
        // It closes, although this end stays open.
        assert_eq!(said(stream).await, ["unavailable"]);
    }

    #[tokio::test]
    async fn a_reply_that_is_too_long_is_a_refusal() {
        let name = "x".repeat(message::MAX_REPLY);
        let reply = AdminReply::WorkerAdmitted(message::WorkerAdmitted { name, was_booted: true });
        let line = String::from_utf8(encode(&reply)).unwrap();
        assert!(line.len() < 200 && line.contains("replyTooLong"), "{}", line.len());
    }

    #[tokio::test]
    async fn one_too_many_is_told_so() {
        let dir = private();
        let path = dir.path().join(SOCKET);
        let socket = AdminSocket::open(dir.path()).unwrap().unwrap();
        let (events, _inbox) = mpsc::channel(1);
        let accepting = tokio::spawn(async move { socket.accept(events, no_books()).await });
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut text = String::new();
        let mut late = UnixStream::connect(&path).await.unwrap();
        late.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("tooManyConnections"), "{text}");
        accepting.abort();
    }

    /// Run by the test below as another user: connects, and passes on what it is told.
    #[test]
    #[ignore = "a part of `another_user_is_sent_away`"]
    fn connect_as_somebody() {
        let path = std::env::var_os("ADMIN_SOCKET_OF_TEST").unwrap();
        let mut stream = unix::UnixStream::connect(path).unwrap();
        let mut text = String::new();
        io::Write::write_all(&mut stream, b"{\"command\":\"status\"}\n").ok();
        // Closed with what was sent unread, so that this may be an error.
        let mut stream = io::BufReader::new(stream);
        let _ = io::BufRead::read_line(&mut stream, &mut text);
        println!("told [{}]", text.trim_end());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_user_is_sent_away() {
        use std::os::unix::process::CommandExt;
        if own_user().unwrap() != 0 {
            return eprintln!("skipped: only root can become another user");
        }
        let dir = private();
        let path = dir.path().join(SOCKET);
        let socket = AdminSocket::open(dir.path()).unwrap().unwrap();
        // As if the directory and the file did not keep them out.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let (events, mut inbox) = mpsc::channel(1);
        let accepting = tokio::spawn(async move { socket.accept(events, no_books()).await });
        tokio::spawn(async move {
            while let Some(Event::Admin(_, answer)) = inbox.recv().await {
                answer.send(AdminError::Unavailable.into()).unwrap();
            }
        });
        let said_to = |user: u32| {
            let mut command = std::process::Command::new("/proc/self/exe");
            command
                .args(["--exact", "admin::tests::connect_as_somebody", "--ignored", "--nocapture"])
                .env("ADMIN_SOCKET_OF_TEST", &path)
                .uid(user);
            tokio::task::spawn_blocking(move || {
                command.output().map(|output| String::from_utf8(output.stdout).unwrap())
            })
        };
        match said_to(65_534).await.unwrap() {
            Ok(said) => assert!(said.contains("told []"), "{said}"),
            Err(error) => return eprintln!("skipped: nobody cannot run this program: {error}"),
        }
        let root = said_to(0).await.unwrap().unwrap();
        assert!(root.contains("told [{") && root.contains("unavailable"), "{root}");
        accepting.abort();
    }
}
