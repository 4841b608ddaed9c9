//! `papertrader up`: a master and its workers as processes of their own, in one process group.
//!
//! It writes their configuration and makes their keys in the data directory, registers the workers
//! with the master, waits until each part says that it is ready, and passes on what they say. At
//! Ctrl-C or SIGTERM the workers drain first, then the master. A worker that dies is started again;
//! if the master dies, everything ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use papertrader_master::admin::message::{NewWorker, WorkerBoot};
use papertrader_master::admin::{AdminReply, AdminRequest, Client, ClientError};
use papertrader_node::config::{HumanDuration, load};
use papertrader_node::link::Network;
use papertrader_node::tls;
use papertrader_store::directory::lock_directory;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::identity::{own_identity, write_new};
use super::run::LOCK_WAIT;
use super::settings::{
    MASTER_KEY, MasterSettings, Source, make_private_dir, toml_string, worker_user_id,
};
use super::{ServerError, remark, say};
use crate::hint;
use crate::output::time::Nanos;

/// How the configurations begin that are written here.
const WRITTEN: &str = "# Written by `papertrader up`";
/// How far apart the ports of the workers are.
const PORT_STEP: u16 = 10;
/// How long a worker that died is left alone before it is started again.
const RESTART: Duration = Duration::from_millis(500);

/// What `up` can be told.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept [default: papertrader in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50))]
    workers: u16,
    /// Address to listen on; others than this machine's own need 0.0.0.0
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: std::net::IpAddr,
    /// Name or address by which clients elsewhere reach this machine
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Port of the master; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 2048)]
    master_port: u16,
    /// Port of the first worker; 0 picks free ones. Others follow, 10 apart
    #[arg(long, value_name = "PORT", default_value_t = 2049)]
    worker_port: u16,
    /// How often prices change and orders are settled
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    interval: HumanDuration,
    /// Market time from one price to the next
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    step: HumanDuration,
    /// First market day of a fresh deployment (replay: 2000-03-01 to 2013-03-01)
    #[arg(long, value_name = "DATE", default_value = "2005-01-03")]
    start: String,
    /// Where prices come from
    #[arg(long, value_enum, default_value = "replay")]
    source: Source,
    /// Number of synthetic instruments
    #[arg(long, value_name = "N", default_value_t = 100)]
    instruments: usize,
    /// Chooses the made-up part of the prices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Cash that a new account starts with
    #[arg(long, value_name = "AMOUNT", default_value = "100000.00")]
    starting_cash: String,
    /// End when standard input closes as well: for whoever runs this as a part
    #[arg(long, hide = true)]
    supervised: bool,
}

/// One process of the group.
struct Part {
    name: String,
    child: Child,
    /// Closing it tells the part to end.
    stdin: Option<ChildStdin>,
}

/// What happens to the group.
enum Happened {
    Said(usize, String),
    Told,
    Ended(usize, std::io::Result<std::process::ExitStatus>),
}

pub(super) fn up(args: UpArgs) -> Result<(), ServerError> {
    let data = match &args.data {
        Some(data) => data.clone(),
        None => default_data().ok_or(ServerError::NoHome)?,
    };
    // What the configurations say is relative to where they stand.
    let data = std::path::absolute(data)?;
    if args.advertise.is_some() && args.worker_port == 0 {
        let problem = "needs a --worker-port that is not 0".into();
        return Err(ServerError::Option { name: "--advertise", problem });
    }
    if args.listen.is_unspecified() && args.advertise.is_none() {
        remark(&format!(
            "papertrader: clients elsewhere are told to come to {}: say --advertise HOST, the name \
             or address of this machine",
            args.listen
        ));
    }
    // Before anything in it is touched: another `up` may be using it.
    let lock = lock_directory(&data, LOCK_WAIT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(Group::run(args, data));
    drop(lock);
    result
}

/// `$XDG_DATA_HOME/papertrader`, or `~/.local/share/papertrader`.
pub(crate) fn default_data() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(home.join("papertrader"))
}

struct Group {
    args: UpArgs,
    data: PathBuf,
    parts: Vec<Part>,
    /// Where each part is ready; the master is part 0.
    ready: Vec<Option<String>>,
    uuids: Vec<String>,
    /// The fingerprint of the master's certificate.
    master_certificate: String,
    said: mpsc::Sender<(usize, String)>,
}

impl Group {
    async fn run(args: UpArgs, data: PathBuf) -> Result<(), ServerError> {
        // Before anything is started, so that no signal is missed.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (told, mut closed) = oneshot::channel();
        let supervised = args.supervised;
        if supervised {
            // A thread of its own: it may wait for ever, and nobody has to wait for it.
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = told.send(());
            });
        }
        let (said, mut lines) = mpsc::channel(64);
        let count = usize::from(args.workers) + 1;
        let mut group = Group {
            args,
            data,
            parts: Vec::new(),
            ready: vec![None; count],
            uuids: vec![],
            master_certificate: String::new(),
            said,
        };
        make_private_dir(&group.data)?;
        for n in 1..count {
            let uuid = group.worker_uuid(n)?;
            group.uuids.push(uuid);
        }
        say(&format!("data in {}", group.data.display()))?;
        group.start_master()?;
        let result = loop {
            let happened = tokio::select! {
                Some((part, line)) = lines.recv() => Happened::Said(part, line),
                _ = interrupt.recv() => Happened::Told,
                _ = terminate.recv() => Happened::Told,
                Ok(()) = &mut closed, if supervised => Happened::Told,
                (part, status) = group.any_end() => Happened::Ended(part, status),
            };
            let goes_on = match happened {
                Happened::Said(part, line) => group.said(part, &line).await,
                Happened::Told => break say("ending"),
                Happened::Ended(part, status) => group.ended(part, status).await,
            };
            // Whatever it was, what runs ends in its order.
            if goes_on.is_err() {
                break goes_on;
            }
        };
        group.end(&mut lines).await;
        result
    }

    /// A part has ended by itself: a worker that had been ready is started again.
    async fn ended(
        &mut self,
        part: usize,
        status: std::io::Result<std::process::ExitStatus>,
    ) -> Result<(), ServerError> {
        let name = self.parts[part].name.clone();
        if part == 0 {
            let log = self.data.join("master/master.log").display().to_string();
            return Err(ServerError::PartEnded(name, log));
        }
        if self.ready[part].is_none() {
            let log = self.worker_dir(part).join("worker.log").display().to_string();
            return Err(ServerError::PartEnded(name, log));
        }
        let how = status.map_or_else(|e| e.to_string(), |status| status.to_string());
        say(&format!("{name} has ended ({how}); starting it again"))?;
        tokio::time::sleep(RESTART).await;
        self.start_worker(part)
    }

    /// Ends the workers, then the master, and waits for each.
    async fn end(&mut self, lines: &mut mpsc::Receiver<(usize, String)>) {
        let mut parts: Vec<Part> = self.parts.drain(..).collect();
        for part in parts.iter_mut().skip(1) {
            part.stdin = None;
        }
        while let Some(mut part) = parts.pop() {
            part.stdin = None;
            // What it still says must be taken, or it could not say it and end.
            loop {
                tokio::select! {
                    _ = part.child.wait() => break,
                    Some(_) = lines.recv() => {}
                }
            }
        }
    }

    /// A part has said something: passes it on, and goes on when all are ready.
    async fn said(&mut self, part: usize, line: &str) -> Result<(), ServerError> {
        let name = self.parts[part].name.clone();
        let Some(address) =
            line.strip_prefix("master ready on ").or(line.strip_prefix("worker ready on "))
        else {
            say(&format!("{name}: {line}"))?;
            return Ok(());
        };
        let process = self.parts[part].child.id();
        let process = process.map_or_else(String::new, |id| format!(" (process {id})"));
        say(&format!("{name} ready on {address}{process}"))?;
        if let (Some(fingerprint), true) = (self.fingerprint(part), self.ready[part].is_none()) {
            say(&format!("  certificate {fingerprint}"))?;
        }
        let first = self.ready[part].is_none();
        self.ready[part] = Some(address.to_owned());
        if part == 0 {
            self.register_workers().await?;
            for n in 1..self.ready.len() {
                self.start_worker(n)?;
            }
        } else if first && self.ready.iter().all(Option::is_some) {
            self.all_ready()?;
        }
        Ok(())
    }

    fn all_ready(&self) -> Result<(), ServerError> {
        let addresses: Vec<&str> = self.ready.iter().flatten().map(String::as_str).collect();
        let [master, workers @ ..] = addresses.as_slice() else { return Ok(()) };
        say(&format!("ready master={master} workers={}", workers.join(",")))?;
        let usual = workers.first().is_some_and(|first| *first == "127.0.0.1:2049");
        let elsewhere = self.advertised(1);
        let server = match elsewhere.as_deref().or(workers.first().copied()) {
            Some(first) if !usual => format!(" --server {first}"),
            _ => String::new(),
        };
        let data = self.data_option();
        say(&format!(
            "\nNext, in another terminal:\n\
             \x20 papertrader register alice --email alice@example.org{server}\n\
             \x20 papertrader login alice{server}\n\
             \x20 papertrader assets\n\
             \x20 papertrader buy AAPL 10\n\
             \x20 papertrader portfolio\n\
             (papertrader is {}; `papertrader admin status{data}` shows how it is; Ctrl-C here ends \
             everything)",
            std::env::current_exe().map_or("this program".into(), |exe| exe.display().to_string()),
        ))
    }

    /// What an operator's command needs to find the master.
    fn data_option(&self) -> String {
        let data = self.args.data.as_deref();
        data.map(|data| format!(" --data {}", hint::path(data))).unwrap_or_default()
    }

    fn start_master(&mut self) -> Result<(), ServerError> {
        let dir = self.data.join("master");
        let has_books = |dir: &Path| dir.join("papertrader.db").exists();
        if has_books(&self.data) && !has_books(&dir) {
            // Or it would begin empty books beside those that were restored.
            return Err(ServerError::Misplaced { data: self.data.clone(), own: dir });
        }
        make_private_dir(&dir)?;
        let args = &self.args;
        let text = format!(
            "{WRITTEN} at each start.\n\
             listen = \"{}\"\n\
             data = {}\n\
             interval = \"{}\"\n\
             starting_cash = {}\n\
             \n[prices]\n\
             source = \"{}\"\n\
             start = {}\n\
             step = \"{}\"\n\
             seed = {}\n\
             instruments = {}\n",
            std::net::SocketAddr::new(args.listen, args.master_port),
            toml_string(&dir.display().to_string()),
            args.interval,
            toml_string(&args.starting_cash),
            match args.source {
                Source::Replay => "replay",
                Source::Synthetic => "synthetic",
            },
            toml_string(&args.start),
            args.step,
            args.seed,
            args.instruments,
        );
        let file = dir.join("master.toml");
        refuse_others(&file)?;
        write_new(&file, text.as_bytes(), true)?;
        let settings: MasterSettings = load(Some(&file), "PAPERTRADER_UP_MASTER_", ())?;
        let side = settings.side(&dir)?;
        self.master_certificate = side.fingerprint().to_string();
        for n in 1..self.ready.len() {
            let key = self.worker_dir(n).join(MASTER_KEY);
            write_new(&key, side.key().to_armored().as_bytes(), true)?;
        }
        let part = self.spawn(0, "master", &file)?;
        self.parts.push(part);
        Ok(())
    }

    /// Makes each worker's key and has the master know it. What the master knows already stays as
    /// it is: a worker that was booted is not let in again by a start.
    async fn register_workers(&self) -> Result<(), ServerError> {
        let mut wanted = Vec::new();
        for (n, uuid) in (1..).zip(&self.uuids) {
            let identity = own_identity(&self.worker_dir(n), &worker_user_id(uuid))?;
            let key = identity.certificate();
            let worker = NewWorker {
                name: format!("worker-{n}"),
                uuid: Some(uuid.clone()),
                key: key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
                // The workers run on this machine and reach the master by its own address.
                addresses: vec![own_address(self.args.listen).to_string()],
            };
            wanted.push((worker, key.fingerprint().to_string()));
        }
        let dir = self.data.join("master");
        // The client blocks while the master answers.
        let registered = tokio::task::spawn_blocking(move || {
            let mut master = Client::connect(&dir)?;
            let each = wanted.into_iter();
            each.map(|(worker, key)| register(&mut master, worker, key)).collect()
        });
        let booted: Result<Vec<Option<WorkerBoot>>, ClientError> =
            registered.await.map_err(std::io::Error::other)?;
        for (n, boot) in (1..).zip(booted?) {
            if let Some(boot) = boot {
                say(&self.refused_text(n, boot))?;
            }
        }
        Ok(())
    }

    /// That the master refuses a worker, and what brings it back.
    fn refused_text(&self, n: usize, boot: WorkerBoot) -> String {
        let name = format!("worker-{n}");
        if boot.compromised {
            let back = back_from_compromise(&self.worker_dir(n));
            return format!("{name} is refused: it was booted as compromised; {back}");
        }
        let until = boot.until.map(|until| format!(" until {}", until.local())).unwrap_or_default();
        let data = self.data_option();
        format!(
            "{name} is refused: it was booted{until}; to let it in: papertrader admin workers admit \
             {name}{data}"
        )
    }

    /// By which clients know a worker.
    fn fingerprint(&self, part: usize) -> Option<String> {
        let dir = self.worker_dir(part);
        let made = tls::Certificate::self_made(&dir, &[]).ok().filter(|_| part > 0)?;
        Some(made.fingerprint().to_string())
    }

    fn start_worker(&mut self, n: usize) -> Result<(), ServerError> {
        let dir = self.worker_dir(n);
        let Some(master) = self.ready[0].clone() else { return Ok(()) };
        let port = master.rsplit_once(':').map_or("2048", |(_, port)| port);
        let own = own_address(self.args.listen);
        // A worker that was ready before comes back where its clients look for it.
        let listen = match (&self.ready[n], self.args.worker_port) {
            (Some(address), _) => address.clone(),
            (None, 0) => std::net::SocketAddr::new(self.args.listen, 0).to_string(),
            (None, first) => {
                let port = worker_port(first, n);
                std::net::SocketAddr::new(self.args.listen, port).to_string()
            }
        };
        let text = format!(
            "{WRITTEN} at each start.\n\
             master = \"{}:{port}\"\n\
             master_certificate = \"{}\"\n\
             uuid = \"{}\"\n\
             listen = \"{listen}\"\n{}",
            if own.is_ipv6() { format!("[{own}]") } else { own.to_string() },
            self.master_certificate,
            self.uuids[n - 1],
            self.advertised(n)
                .map_or(String::new(), |it| format!("advertise = {}\n", toml_string(&it))),
        );
        let file = dir.join("worker.toml");
        refuse_others(&file)?;
        write_new(&file, text.as_bytes(), true)?;
        let part = self.spawn(n, "worker", &file)?;
        if n < self.parts.len() {
            self.parts[n] = part;
        } else {
            self.parts.push(part);
        }
        Ok(())
    }

    fn spawn(&self, index: usize, command: &str, file: &Path) -> Result<Part, ServerError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(command)
            .arg("--supervised")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let said = self.said.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if said.send((index, line)).await.is_err() {
                        return;
                    }
                }
            });
        }
        let name = if index == 0 { "master".into() } else { format!("worker-{index}") };
        Ok(Part { name, child, stdin })
    }

    /// Waits until any part has ended.
    async fn any_end(&mut self) -> (usize, std::io::Result<std::process::ExitStatus>) {
        let mut waits: Vec<_> =
            self.parts.iter_mut().map(|part| Box::pin(part.child.wait())).collect();
        std::future::poll_fn(|context| {
            for (index, wait) in waits.iter_mut().enumerate() {
                if let std::task::Poll::Ready(status) = wait.as_mut().poll(context) {
                    return std::task::Poll::Ready((index, status));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Where clients elsewhere reach a worker, if that was said.
    fn advertised(&self, n: usize) -> Option<String> {
        let host = self.args.advertise.as_ref()?;
        Some(format!("{host}:{}", worker_port(self.args.worker_port, n)))
    }

    fn worker_dir(&self, n: usize) -> PathBuf {
        self.data.join(format!("worker-{n}"))
    }

    /// A worker keeps its UUID from one start to the next.
    fn worker_uuid(&self, n: usize) -> Result<String, ServerError> {
        let dir = self.worker_dir(n);
        make_private_dir(&dir)?;
        let file = dir.join("uuid");
        match std::fs::read_to_string(&file) {
            Ok(text) if uuid::Uuid::parse_str(text.trim()).is_ok() => Ok(text.trim().to_owned()),
            Ok(_) => Err(ServerError::Value {
                key: "worker uuid",
                problem: format!("in {} is not a UUID", file.display()),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let uuid = uuid::Uuid::new_v4().to_string();
                write_new(&file, uuid.as_bytes(), true)?;
                Ok(uuid)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A configuration that somebody else wrote is never replaced.
fn refuse_others(file: &Path) -> Result<(), ServerError> {
    match std::fs::read_to_string(file) {
        Ok(text) if !text.starts_with(WRITTEN) => {
            Err(ServerError::Exists(format!("{} (not written by `up`)", file.display())))
        }
        // What cannot be read cannot be written either, which says more.
        _ => Ok(()),
    }
}

/// How a worker of `up` comes back whose key is stolen: its directory holds the key.
pub(crate) fn back_from_compromise(dir: &Path) -> String {
    format!(
        "its key is never taken again; to have it back with a new one, end `papertrader up`, remove \
         {}, and start it again",
        hint::path(dir)
    )
}

/// Where `up` keeps the worker of this name, if the master in `master` is one of `up`.
pub(crate) fn dir_of_worker(master: &Path, name: &str) -> Option<PathBuf> {
    let dir = master.parent()?.join(name);
    let text = std::fs::read_to_string(dir.join("worker.toml")).ok()?;
    text.starts_with(WRITTEN).then_some(dir)
}

/// Registers a worker, unless it is registered like this already. Says whether it is booted.
fn register(
    master: &mut Client,
    worker: NewWorker,
    fingerprint: String,
) -> Result<Option<WorkerBoot>, ClientError> {
    let known = match master.ask(&AdminRequest::ShowWorker { name: worker.name.clone() }) {
        Ok(AdminReply::Worker(known)) => Some(known),
        Ok(_) => return Err(ClientError::NotUnderstood),
        Err(ClientError::Refused(_)) => None,
        Err(error) => return Err(error),
    };
    if let Some(known) = known {
        let same_worker = worker.uuid.as_deref() == Some(known.uuid.as_str());
        let same_key = known.key.is_some_and(|key| key.fingerprint == fingerprint);
        let networks = |texts: &[String]| -> Vec<Option<Network>> {
            texts.iter().map(|text| text.parse().ok()).collect()
        };
        if same_worker && same_key && networks(&known.addresses) == networks(&worker.addresses) {
            return Ok(known.booted);
        }
        if !same_worker {
            // Its directory was removed: the name is another worker's now.
            master.ask(&AdminRequest::RemoveWorker { name: worker.name.clone() })?;
        }
    }
    master.ask(&AdminRequest::AddWorker(worker)).map(|_| None)
}

/// The port of the n-th worker.
fn worker_port(first: u16, n: usize) -> u16 {
    first.saturating_add(PORT_STEP.saturating_mul(n as u16 - 1))
}

/// The address by which a process on this machine reaches one that listens on `listen`.
fn own_address(listen: std::net::IpAddr) -> std::net::IpAddr {
    match listen {
        std::net::IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_a_toml_string() {
        assert_eq!(toml_string("/a \"b\"\\c\n"), "\"/a \\\"b\\\"\\\\c\\u000A\"");
    }

    #[test]
    fn a_process_on_this_machine_reaches_what_listens_everywhere() {
        assert_eq!(own_address("0.0.0.0".parse().unwrap()).to_string(), "127.0.0.1");
        assert_eq!(own_address("::".parse().unwrap()).to_string(), "::1");
        assert_eq!(own_address("10.1.2.3".parse().unwrap()).to_string(), "10.1.2.3");
    }
}
