//! Whole books, for the operator: verified, backed up and exported beside the driver, which does not
//! notice.
//!
//! Each has a connection of its own and a thread that may wait for the disk. What takes long is done
//! one at a time, says every second how far it is, and ends soon after whoever asked is gone or the
//! master ends.
//!
//! Invariant: nothing here writes to the books.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use papertrader_core::names::UserName;
use papertrader_node::{info, warn};
use papertrader_store::{CopyError, Location, StoreError, Watch};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;

use super::message::{
    AdminError, AdminReply, AdminRequest, BackedUp, ExportCursor, ExportPage, LINES, Progress,
    shown,
};
use super::{Patience, encode};

/// How often it is said how far something is.
const TOLD: Duration = Duration::from_secs(1);

/// The books, and who is at them.
#[derive(Debug)]
pub(crate) struct Books {
    location: Location,
    /// For what takes long.
    place: Arc<Semaphore>,
    /// For pages of exports: one after the other.
    page: Mutex<()>,
    /// The master ends.
    ends: Arc<AtomicBool>,
}

/// What a request asks of whole books.
pub(crate) enum Asked {
    Verify,
    BackUp { file: String, device: u64, inode: u64 },
    Export { user: String, after: ExportCursor },
}

impl Asked {
    /// The request again, if the driver is to answer it.
    pub(crate) fn of(request: AdminRequest) -> Result<Asked, AdminRequest> {
        match request {
            AdminRequest::Verify {} => Ok(Asked::Verify),
            AdminRequest::BackUp { file, device, inode } => {
                Ok(Asked::BackUp { file, device, inode })
            }
            AdminRequest::Export { user, after } => Ok(Asked::Export { user, after }),
            other => Err(other),
        }
    }
}

impl Books {
    pub(crate) fn new(location: Location) -> Books {
        Books {
            location,
            place: Arc::new(Semaphore::new(1)),
            page: Mutex::new(()),
            ends: Arc::default(),
        }
    }

    /// Nothing long is to go on any more.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// Answers; what takes long says meanwhile on `stream` how far it is.
    pub(super) async fn answer<S: AsyncWrite + Unpin>(
        &self,
        asked: Asked,
        stream: &mut S,
        patience: Patience,
    ) -> AdminReply {
        let location = self.location.clone();
        let answer = match asked {
            Asked::Export { user, after } => {
                let _turn = self.page.lock().await;
                let read = tokio::task::spawn_blocking(move || export(&location, &user, after));
                ended(read.await).map(AdminReply::Exported)
            }
            Asked::Verify => {
                let work = move |watch: &mut Watch<'_>| location.verify(watch).map_err(Into::into);
                let verified = self.long(work, stream, patience).await;
                verified.map(|report| AdminReply::Verified(report.into()))
            }
            Asked::BackUp { file, device, inode } => {
                let path = PathBuf::from(&file);
                let work = move |watch: &mut Watch<'_>| {
                    same_directory(&path, device, inode)?;
                    back_up(&location, &path, watch)
                };
                self.long(work, stream, patience).await.map(AdminReply::BackedUp)
            }
        };
        match &answer {
            Ok(AdminReply::Verified(verified)) if !verified.right => {
                let first = verified.contradictions.first().map(|it| it.what.as_str());
                warn!(first, "the books were verified for the operator, and contradict themselves");
            }
            Ok(AdminReply::Verified(_)) => info!("the books were verified for the operator"),
            Ok(AdminReply::BackedUp(done)) => info!(file = %done.file, "the books were backed up"),
            Ok(AdminReply::Exported(page)) if !page.more => {
                info!(user = %page.user, "an account was exported for the operator");
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the operator's command failed"),
        }
        answer.unwrap_or_else(AdminReply::from)
    }

    /// Runs what takes long on a thread.
    async fn long<T, S>(
        &self,
        work: impl FnOnce(&mut Watch<'_>) -> Result<T, AdminError> + Send + 'static,
        stream: &mut S,
        patience: Patience,
    ) -> Result<T, AdminError>
    where
        T: Send + 'static,
        S: AsyncWrite + Unpin,
    {
        let place = Arc::clone(&self.place).try_acquire_owned().map_err(|_| AdminError::Busy)?;
        let ends = Arc::clone(&self.ends);
        let (tell, told) = watch::channel(None);
        let mut job = tokio::task::spawn_blocking(move || {
            let done = work(&mut |progress| {
                let is_heard = tell.send(Some(Progress::from(progress))).is_ok();
                if is_heard && !ends.load(Ordering::Relaxed) {
                    return ControlFlow::Continue(());
                }
                ControlFlow::Break(())
            });
            // As long as it really runs.
            drop(place);
            done
        });
        let mut told = Some(told);
        let mut tick = tokio::time::interval(TOLD);
        tick.reset();
        loop {
            tokio::select! {
                done = &mut job => return ended(done),
                _ = tick.tick() => {
                    let progress = told.as_ref().and_then(|told| told.borrow().clone());
                    // Also where nothing moves: whoever waits knows then that the master is there.
                    let line = AdminReply::Progress(progress.unwrap_or_else(begun));
                    let taken = timeout(patience.line, stream.write_all(&encode(&line))).await;
                    if !matches!(taken, Ok(Ok(()))) {
                        // Nobody waits any more: the work ends when it looks the next time.
                        told = None;
                    }
                }
            }
        }
    }
}

fn begun() -> Progress {
    Progress { doing: "verifying".into(), done: 0, of: None }
}

/// What a thread has brought back.
fn ended<T>(done: Result<Result<T, AdminError>, tokio::task::JoinError>) -> Result<T, AdminError> {
    done.unwrap_or_else(|error| Err(AdminError::Unreadable(error.to_string())))
}

/// The next part of what an account did.
pub fn export(
    location: &Location,
    user: &str,
    after: ExportCursor,
) -> Result<ExportPage, AdminError> {
    let unknown = || AdminError::UnknownUser(shown(user));
    let name: UserName = user.parse().map_err(|_| unknown())?;
    let mut exporter = location.exporter()?;
    let (account, name) = exporter.account(&name)?.ok_or_else(unknown)?;
    let page = exporter.page(account, after.into(), LINES)?;
    Ok(ExportPage::new(name.to_string(), account.0, page))
}

/// Makes a backup, and says what is in it.
pub fn back_up(
    location: &Location,
    file: &Path,
    watch: &mut Watch<'_>,
) -> Result<BackedUp, AdminError> {
    let report = location.back_up(file, watch)?;
    let bytes = std::fs::metadata(file).map_or(0, |data| data.len());
    Ok(BackedUp { file: file.display().to_string(), bytes, checked: (&report).into() })
}

/// That the operator's program sees the same directory at this path as this process.
fn same_directory(file: &Path, device: u64, inode: u64) -> Result<(), AdminError> {
    let dir = file.parent().filter(|_| file.is_absolute());
    let dir = dir.ok_or_else(|| AdminError::File("the file's path is not absolute".into()))?;
    let data = std::fs::metadata(dir)
        .map_err(|error| AdminError::File(format!("{}: {error}", dir.display())))?;
    match (data.dev(), data.ino()) == (device, inode) {
        true => Ok(()),
        false => Err(AdminError::OtherDirectory(dir.display().to_string())),
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> AdminError {
        match error {
            StoreError::Stopped => AdminError::Stopped,
            error => AdminError::Unreadable(error.to_string()),
        }
    }
}

impl From<CopyError> for AdminError {
    fn from(error: CopyError) -> AdminError {
        match error {
            CopyError::Store(error) => error.into(),
            CopyError::Exists(_) | CopyError::Unfinished(_) => {
                AdminError::FileExists(error.to_string())
            }
            CopyError::File { .. } | CopyError::InUse(..) => AdminError::File(error.to_string()),
            CopyError::NotEmpty { .. } => AdminError::NotEmpty(error.to_string()),
            CopyError::Wrong(report) => {
                let first = report.mismatches.first().map_or("", |first| first.what.as_str());
                AdminError::Contradiction(shown(first))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_store::Doing;
    use std::sync::mpsc::channel;
    use tokio::io::AsyncReadExt;

    const PATIENCE: Patience =
        Patience { line: Duration::from_secs(10), idle: Duration::from_secs(60) };

    fn books() -> Arc<Books> {
        Arc::new(Books::new(Location::file(Path::new("none"))))
    }

    #[tokio::test]
    async fn it_is_said_how_far_it_is_and_nothing_else_long_begins() {
        let books = books();
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (begin, begun) = channel();
        let (end, ended) = channel::<()>();
        let long = tokio::spawn({
            let books = Arc::clone(&books);
            async move {
                let work = move |watch: &mut Watch<'_>| {
                    let doing = Doing::Copying;
                    let progress = papertrader_store::Progress { doing, done: 7, of: Some(9) };
                    assert!(watch(progress).is_continue());
                    begin.send(()).unwrap();
                    ended.recv().unwrap();
                    Ok(5)
                };
                books.long(work, &mut theirs, PATIENCE).await
            }
        });
        let begun = tokio::task::spawn_blocking(move || begun.recv());
        begun.await.unwrap().unwrap();
        let mut other = tokio::io::sink();
        let refused = books.answer(Asked::Verify, &mut other, PATIENCE).await;
        assert_eq!(refused, AdminError::Busy.into());
        // A line that says so, whether anything moves or not.
        let line = br#"{"progress":{"doing":"copying","done":7,"of":9}}"#;
        let mut said = vec![0; line.len()];
        ours.read_exact(&mut said).await.unwrap();
        assert_eq!(said, line);
        end.send(()).unwrap();
        assert_eq!(long.await.unwrap().unwrap(), 5);
    }

    #[tokio::test]
    async fn what_takes_long_ends_with_the_master_and_with_whoever_waits() {
        let ends = books();
        ends.end();
        let look = |watch: &mut Watch<'_>| {
            let progress = papertrader_store::Progress { doing: Doing::Copying, done: 1, of: None };
            // Until nobody wants it any more.
            while watch(progress).is_continue() {
                std::thread::yield_now();
            }
            Err::<(), _>(AdminError::Stopped)
        };
        let stopped = ends.long(look, &mut tokio::io::sink(), PATIENCE).await;
        assert_eq!(stopped, Err(AdminError::Stopped));
        let (ours, mut theirs) = tokio::io::duplex(64);
        drop(ours);
        let stopped = books().long(look, &mut theirs, PATIENCE).await;
        assert_eq!(stopped, Err(AdminError::Stopped));
    }
}
