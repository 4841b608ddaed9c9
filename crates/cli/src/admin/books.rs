//! `papertrader admin verify`, `backup` and `restore`: what is done to whole books.
//!
//! A running master verifies and backs up its books itself, beside the trading; without one this
//! program does it, and locks the data directory meanwhile. Only this program restores, and only where no
//! master runs.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use papertrader_master::admin::message::{
    AdminError, BackedUp, BooksRestored, Checked, Progress, Verified,
};
use papertrader_master::admin::{AdminReply, AdminRequest, Client, ClientError, books};
use papertrader_store::Location;
use papertrader_store::directory::{DirectoryLock, lock_directory};

use super::text::{Fields, count, size};
use super::{Master, not_understood};
use crate::error::CliError;
use crate::output::Output;
use crate::output::time::Nanos;

/// How long something lasts before it is said how far it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often that is said then.
const OFTEN: Duration = Duration::from_millis(200);

/// What the master has made and no backup holds: the secret halves of what workers know it by.
const KEYS: [&str; 2] = ["openpgp-secret.asc", "tls-key.pem"];

pub(super) fn verify(master: &Master) -> Result<(), CliError> {
    let mut meter = Meter::new(&master.output);
    let verified = match master.connect()? {
        Some(mut client) => {
            match client.ask_watching(&AdminRequest::Verify {}, &mut |now| meter.show(&now))? {
                AdminReply::Verified(verified) => verified,
                _ => return Err(not_understood()),
            }
        }
        None => {
            let (_lock, location) = master.at_rest()?;
            let report = location.verify(&mut meter.watch());
            report.map_err(AdminError::from)?.into()
        }
    };
    drop(meter);
    master.show(&verified, verified_text)?;
    if verified.right { Ok(()) } else { Err(CliError::BooksWrong) }
}

pub(super) fn backup(master: &Master, file: &Path) -> Result<(), CliError> {
    let file = std::path::absolute(file)?;
    let mut meter = Meter::new(&master.output);
    let done = match master.connect()? {
        Some(mut client) => {
            let (device, inode) = directory_of(&file)?;
            let name = file.to_str().ok_or_else(|| {
                AdminError::File(format!("{}: the name is not UTF-8", file.display()))
            })?;
            let request = AdminRequest::BackUp { file: name.to_owned(), device, inode };
            match client.ask_watching(&request, &mut |now| meter.show(&now))? {
                AdminReply::BackedUp(done) => done,
                _ => return Err(not_understood()),
            }
        }
        None => {
            let (_lock, location) = master.at_rest()?;
            let orders = location.accepted_beside().map_err(AdminError::from)?;
            if orders > 0 {
                return Err(AdminError::NotWritten(orders).into());
            }
            books::back_up(&location, &file, &mut meter.watch())?
        }
    };
    drop(meter);
    master.show(&done, backed_up_text)
}

/// Which directory a file is to be in.
fn directory_of(file: &Path) -> Result<(u64, u64), AdminError> {
    let dir = file.parent().unwrap_or(file);
    let data = std::fs::metadata(dir);
    let data = data.map_err(|error| AdminError::File(format!("{}: {error}", dir.display())))?;
    Ok((data.dev(), data.ino()))
}

pub(super) fn restore(master: &Master, file: &Path) -> Result<(), CliError> {
    if let Some(_client) = master.connect()? {
        return Err(CliError::MasterRuns(master.dir.clone()));
    }
    // Before a directory is made for it.
    std::fs::File::open(file)
        .map_err(|error| AdminError::File(format!("{}: {error}", file.display())))?;
    let _lock = lock(&master.dir)?;
    let mut meter = Meter::new(&master.output);
    let (location, place) = match &master.configured {
        Some(configured) => (configured.location.clone(), configured.place()),
        None => {
            let path = books_in(&master.dir);
            (Location::file(&path), path.display().to_string())
        }
    };
    let restored = location.restore(file, &master.dir, &mut meter.watch());
    drop(meter);
    let restored = restored.map_err(AdminError::from)?;
    let is_missing = |name: &&str| !master.dir.join(name).exists();
    let own_keys = master.configured.as_ref().is_none_or(|configured| configured.own_keys);
    let missing = KEYS.into_iter().filter(|_| own_keys).filter(is_missing);
    let restored = BooksRestored::new(place, &restored, missing.map(str::to_owned).collect());
    let option = master.option.as_str();
    master.show(&restored, |restored| restored_text(restored, &master.dir, option))
}

/// The file with the books in a data directory.
pub(super) fn books_in(dir: &Path) -> PathBuf {
    dir.join("papertrader.db")
}

fn lock(dir: &Path) -> Result<DirectoryLock, AdminError> {
    Ok(lock_directory(dir, Duration::ZERO)?)
}

impl Master {
    /// The running master, if there is one.
    pub(super) fn connect(&self) -> Result<Option<Client>, CliError> {
        match Client::connect(&self.dir) {
            Ok(client) => Ok(Some(client)),
            Err(ClientError::NoMaster(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The books of a master that does not run, and the lock that keeps one from starting.
    pub(super) fn at_rest(&self) -> Result<(Option<DirectoryLock>, Location), CliError> {
        if let Some(configured) = &self.configured
            && configured.is_server
        {
            // Others may be at it: all is read in one transaction.
            return Ok((None, configured.location.clone()));
        }
        let location = Location::file(&books_in(&self.dir));
        if location.is_missing_file() {
            return Err(CliError::NoBooks(self.dir.clone()));
        }
        Ok((Some(lock(&self.dir)?), location))
    }
}

/// Says on a terminal how far something is, if it lasts.
pub(super) struct Meter {
    is_welcome: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Meter {
    pub(super) fn new(output: &Output) -> Meter {
        Meter { is_welcome: output.notes && !output.json, started: Instant::now(), shown: None }
    }

    fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        let is_due = |last: Instant| now.duration_since(last) >= OFTEN;
        let lasts = now.duration_since(self.started) >= PATIENCE;
        if !self.is_welcome || !lasts || !self.shown.is_none_or(is_due) {
            return;
        }
        self.shown = Some(now);
        let far = match progress.of {
            Some(of) if of > 0 => format!("{} %", u128::from(progress.done) * 100 / u128::from(of)),
            _ => format!("{} rows", progress.done),
        };
        self.line(&format!("{}: {far}", progress.doing));
    }

    fn watch(&mut self) -> impl FnMut(papertrader_store::Progress) -> ControlFlow<()> {
        |progress| {
            self.show(&progress.into());
            ControlFlow::Continue(())
        }
    }

    /// Instead of the one before.
    fn line(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        // What cannot be shown is no reason to fail.
        let _ = write!(err, "\r{text}\x1b[K").and_then(|()| err.flush());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.line("");
        }
    }
}

fn checked_fields(checked: &Checked) -> Fields {
    let mut fields = Fields::default();
    fields.put("accounts", checked.accounts);
    fields.put("positions", checked.positions);
    fields.put("orders", checked.orders);
    fields.put("outcomes", format!("{}, {} of them fills", checked.outcomes, checked.fills));
    fields.put("entries", checked.entries);
    fields.put("settlements", checked.snapshots);
    fields.put("bars", checked.bars);
    fields
}

fn verified_text(verified: &Verified) -> String {
    let checked = &verified.checked;
    let mut fields = checked_fields(checked);
    fields.put("cash", format!("traders {}", checked.cash));
    fields.put("", format!("market {}", checked.market));
    fields.put("", format!("grants {}", checked.grants));
    fields.put("", format!("fractions {}", checked.fractions));
    fields.put("", format!("together {}", checked.sum));
    let mut text = fields.text();
    for contradiction in &verified.contradictions {
        text += &format!("wrong: {}\n", contradiction.what);
    }
    if verified.more > 0 {
        text += &format!("and {} more\n", verified.more);
    }
    if verified.right {
        text += "the books are right\n";
    }
    text
}

fn backed_up_text(done: &BackedUp) -> String {
    let checked = &done.checked;
    format!(
        "backed up to {} ({}): {}, {}, verified\n\
         it holds password hashes and e-mail addresses: keep it as safe as the books\n",
        done.file,
        size(done.bytes),
        count(checked.accounts, "account"),
        count(checked.orders, "order"),
    )
}

fn restored_text(restored: &BooksRestored, dir: &Path, option: &str) -> String {
    let checked = &restored.checked;
    let mut text = format!(
        "restored into {}: {}, {}, until {} (batch {}), verified\n\
         All sessions are ended: everybody logs in again, with the password of that time.\n\
         Workers are registered and booted, and users disabled, as they were then: do again what \
         was done since.\n",
        restored.place,
        count(checked.accounts, "account"),
        count(checked.orders, "order"),
        restored.until.local(),
        restored.last_batch,
    );
    if !restored.missing_keys.is_empty() {
        text += &format!(
            "The master's keys are not in {} (openpgp-*.asc, tls-*.pem): copy them there from the \
             old data directory, or each worker has to be told of the new ones that are made at the \
             start.\n",
            dir.display()
        );
    }
    text + &format!(
        "Next: start the master with this data directory (`papertrader up --data DIR` has it in DIR/master), \
         then\n  papertrader admin verify{option}\n"
    )
}
