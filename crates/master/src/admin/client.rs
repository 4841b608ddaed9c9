//! The program's end of the admin socket: asks one thing after the other, and waits.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{AdminRefusal, AdminReply, AdminRequest, MAX_REPLY, Progress};
use super::{SOCKET, reach};

/// How long the master may take for an answer: a change waits for the disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the master whose data directory is given.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no master is running with {}", .0.display())]
    NoMaster(PathBuf),
    /// Only the user that the master runs as, and root, may use the socket.
    #[error("the master in {} is another user's: run this as the user that it runs as, or as root", .0.display())]
    NotYours(PathBuf),
    /// The socket cannot be used.
    #[error("cannot reach the master in {}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
    /// The master closed the connection, or was silent.
    #[error("the master did not answer: {0}; its log may say why")]
    NoAnswer(io::Error),
    /// The answer is not one to this request.
    #[error("the master's answer is not understood: is it of another version than this program?")]
    NotUnderstood,
    /// The master says no.
    #[error(transparent)]
    Refused(#[from] AdminRefusal),
}

impl ClientError {
    /// The stable word for programs.
    pub fn code(&self) -> &str {
        match self {
            ClientError::NoMaster(_) => "noMaster",
            ClientError::NotYours(_) => "notYours",
            ClientError::Io(..) => "socket",
            ClientError::NoAnswer(_) => "noAnswer",
            ClientError::NotUnderstood => "notUnderstood",
            ClientError::Refused(refusal) => &refusal.code,
        }
    }
}

impl Client {
    /// Connects to the master whose data directory is `dir`. Blocks.
    pub fn connect(dir: &Path) -> Result<Client, ClientError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoMaster(dir.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotYours(dir.to_owned()),
            _ => ClientError::Io(dir.to_owned(), error),
        };
        let opened = File::open(dir).map_err(failed)?;
        let stream = reach(&opened, &dir.join(SOCKET), UnixStream::connect).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer; a refusal is an error.
    pub fn ask(&mut self, request: &AdminRequest) -> Result<AdminReply, ClientError> {
        self.ask_watching(request, &mut |_| {})
    }

    /// The same; is told meanwhile how far it is.
    pub fn ask_watching(
        &mut self,
        request: &AdminRequest,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<AdminReply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|_| ClientError::NotUnderstood)?;
        line.push(b'\n');
        // Where the master says why it closes, it has said so before this fails.
        let mut sent = self.stream.get_mut().write_all(&line);
        loop {
            let mut answer = Vec::new();
            let mut limited = (&mut self.stream).take(MAX_REPLY as u64 + 1);
            let read = limited.read_until(b'\n', &mut answer);
            if answer.last() != Some(&b'\n') {
                let closed = || io::ErrorKind::UnexpectedEof.into();
                let sent = std::mem::replace(&mut sent, Ok(()));
                return Err(ClientError::NoAnswer(sent.and(read).err().unwrap_or_else(closed)));
            }
            match serde_json::from_slice(&answer) {
                Ok(AdminReply::Progress(progress)) => watch(progress),
                Ok(AdminReply::Refused(refusal)) => return Err(refusal.into()),
                Ok(reply) => return Ok(reply),
                Err(_) => return Err(ClientError::NotUnderstood),
            }
        }
    }
}
