//! `papertrader admin workers …`: the registry of workers.

use std::io::Read;
use std::path::Path;

use papertrader_master::admin::message::{
    NewWorker, WorkerAdded, WorkerAdmitted, WorkerBooted, WorkerDetail, WorkerLines, WorkerRemoved,
    WorkerReport, WorkerState,
};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_node::openpgp::{Certificate, MAX_KEY_FILE};

use super::text::{Fields, count, millis, signed_millis, size, span};
use super::{Master, WorkersCommand, not_understood};
use crate::error::CliError;
use crate::output::table::{Align, Table};
use crate::output::thousandths;
use crate::output::time::{Nanos, zone_line};
use crate::server::{back_from_compromise, dir_of_worker};

pub(super) fn run(master: &Master, command: WorkersCommand) -> Result<(), CliError> {
    let request = match command {
        WorkersCommand::List => AdminRequest::ListWorkers {},
        WorkersCommand::Show { name } => AdminRequest::ShowWorker { name },
        WorkersCommand::Add { name, key, addresses, uuid } => {
            let key = read_key(&key)?;
            let key = key.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            AdminRequest::AddWorker(NewWorker { name, uuid, key, addresses })
        }
        WorkersCommand::Remove { name } => AdminRequest::RemoveWorker { name },
        WorkersCommand::Boot { name, duration, compromised } => AdminRequest::BootWorker {
            name,
            for_ms: duration.map(|duration| duration.as_millis()),
            compromised,
        },
        WorkersCommand::Admit { name } => AdminRequest::AdmitWorker { name },
    };
    match master.ask(request)? {
        AdminReply::Workers(workers) => {
            master.show(&workers, |workers| list_text(workers, &master.option))
        }
        AdminReply::Worker(worker) => {
            let dir = dir_of_worker(&master.dir, &worker.name);
            master.show(&worker, |worker| show_text(worker, dir.as_deref()))
        }
        AdminReply::WorkerAdded(added) => master.show(&added, added_text),
        AdminReply::WorkerRemoved(removed) => master.show(&removed, removed_text),
        AdminReply::WorkerBooted(booted) => master.show(&booted, |booted| {
            let dir = dir_of_worker(&master.dir, &booted.name);
            booted_text(booted, dir.as_deref(), &master.option)
        }),
        AdminReply::WorkerAdmitted(admitted) => master.show(&admitted, admitted_text),
        _ => Err(not_understood()),
    }
}

/// Reads a public key: what is not needed of it stays here.
fn read_key(path: &Path) -> Result<Certificate, CliError> {
    let unreadable = |problem| CliError::KeyFile { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Certificate::parse(&bytes)
        .map_err(|problem| CliError::NotAKey { path: path.to_owned(), problem })
}

fn list_text(list: &WorkerLines, option: &str) -> String {
    if list.workers.is_empty() {
        return format!(
            "no workers are registered: papertrader admin workers add NAME --key FILE --address \
             CIDR{option}"
        );
    }
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("UUID", Align::Left),
        ("state", Align::Left),
        ("region", Align::Left),
        ("clients", Align::Right),
        ("load", Align::Right),
        ("round trip", Align::Right),
        ("clock", Align::Right),
        ("address", Align::Left),
    ]);
    for worker in &list.workers {
        let state = match (worker.state, worker.booted_until) {
            (WorkerState::Booted, Some(until)) => format!("booted until {}", until.cell()),
            (state, _) => state.to_string(),
        };
        table.row([
            worker.name.as_str().into(),
            worker.uuid.chars().take(8).collect::<String>().into(),
            state.into(),
            worker.region.as_deref().unwrap_or_default().into(),
            worker.clients.map(|clients| clients.to_string()).unwrap_or_default().into(),
            worker.load.map(thousandths).unwrap_or_default().into(),
            worker.round_trip_us.map(millis).unwrap_or_default().into(),
            worker.clock_offset_us.map(ahead).unwrap_or_default().into(),
            worker.address.as_deref().unwrap_or_default().into(),
        ]);
    }
    let mut text = table.draw(false);
    if list.workers.iter().any(|worker| worker.booted_until.is_some()) {
        text += &zone_line();
    }
    text
}

/// `dir` is where `up` keeps it, if it does.
fn show_text(worker: &WorkerDetail, dir: Option<&Path>) -> String {
    let mut fields = Fields::default();
    fields.put("UUID", &worker.uuid);
    fields.put("connects from", worker.addresses.join(", "));
    match &worker.key {
        None => fields.put("key", "none that can be read: add the worker again with its key"),
        Some(key) => {
            fields.put("key", &key.fingerprint);
            fields.put("key of", &key.user_id);
            match (&key.problem, key.valid_until) {
                (Some(problem), _) => fields.put("key state", problem),
                (None, Some(until)) => {
                    fields.put("key state", format!("usable until {}", until.local()));
                }
                (None, None) => fields.put("key state", "usable, does not expire"),
            }
        }
    }
    if let Some(boot) = worker.booted {
        let until = match (boot.until, boot.compromised) {
            (_, true) => match dir {
                Some(dir) => format!("compromised: {}", back_from_compromise(dir)),
                None => "compromised: until it is added again with a new key".into(),
            },
            (Some(until), false) => format!("until {}", until.local()),
            (None, false) => "until admitted or added".into(),
        };
        fields.put("booted", until);
    }
    if let Some(live) = &worker.live {
        fields.put("connected", format!("since {}, from {}", live.since.local(), live.peer));
        fields.put("version", &live.version);
        fields.put("address", &live.address);
        if !live.web.is_empty() {
            fields.put("web", &live.web);
        }
        if !live.region.is_empty() {
            fields.put("region", &live.region);
        }
        if !live.certificate.is_empty() {
            fields.put("certificate", &live.certificate);
        }
        match &live.report {
            Some(report) => put_report(&mut fields, report),
            None => fields.put("report", "none yet"),
        }
    }
    let conduct = &worker.conduct;
    fields.put(
        "misconduct",
        format!(
            "{} with another UUID, {} malformed, {} of foreign sessions",
            conduct.foreign_frames, conduct.malformed, conduct.foreign_sessions
        ),
    );
    fields.put("wrong passwords", conduct.wrong_passwords);
    if let (Some(last), Some(time)) = (&conduct.last, conduct.last_time) {
        fields.put("last", format!("{last}, {}", time.local()));
    }
    format!("{}, {}\n{}", worker.name, worker.state, fields.text())
}

fn put_report(fields: &mut Fields, report: &WorkerReport) {
    let started = report.started.local();
    fields.put("started", format!("{started} ({})", span(report.uptime_seconds)));
    fields.put("clients", report.clients);
    fields.put("load", thousandths(report.load));
    fields.put("sessions", report.sessions);
    fields.put("orders waiting", report.orders);
    let asked = report.cache_hits.saturating_add(report.cache_misses);
    let rate = match u128::from(report.cache_hits) * 100 {
        _ if asked == 0 => "nothing asked yet".to_owned(),
        hits => format!("{}% of {asked} answered from it", hits / u128::from(asked)),
    };
    let (held, limit) = (size(report.cache_bytes), size(report.cache_limit));
    let evicted = count(report.cache_evictions, "eviction");
    fields.put("cache", format!("{held} of {limit}, {rate}, {evicted}"));
    fields.put("outgoing", format!("{} wait for clients", size(report.outgoing_bytes)));
    fields.put(
        "held off",
        format!(
            "{} refused, {} cut, {} throttled",
            count(report.refused_connections, "connection"),
            report.cut_connections,
            count(report.throttled_requests, "request"),
        ),
    );
    if let (Some(trip), Some(offset)) = (report.round_trip_us, report.clock_offset_us) {
        fields.put("round trip", millis(trip));
        fields.put("clock", format!("{} to the master's", ahead(offset)));
    }
}

/// By how much the worker's clock is ahead of the master's.
fn ahead(clock_offset: i64) -> String {
    signed_millis(clock_offset.saturating_neg())
}

fn cut_text(link_cut: bool) -> &'static str {
    if link_cut { "its link was cut" } else { "it was not connected" }
}

fn added_text(added: &WorkerAdded) -> String {
    let what = if added.replaced { "replaced" } else { "registered" };
    let mut text = format!(
        "{what} {}\nUUID           {}\nkey            {}\nconnects from  {}\n",
        added.name,
        added.uuid,
        added.key,
        added.addresses.join(", ")
    );
    if added.boot_lifted {
        text += "its boot is lifted\n";
    }
    if added.link_cut {
        text += "its link was cut: what was registered before no longer holds\n";
    }
    text
}

fn removed_text(removed: &WorkerRemoved) -> String {
    format!("removed {} ({}); {}", removed.name, removed.uuid, cut_text(removed.link_cut))
}

/// `dir` is where `up` keeps it, if it does.
fn booted_text(booted: &WorkerBooted, dir: Option<&Path>, option: &str) -> String {
    let name = &booted.name;
    let until = match (booted.until, booted.compromised) {
        (Some(until), _) => format!("until {}", until.local()),
        (None, false) => format!("until `papertrader admin workers admit {name}{option}`"),
        (None, true) => "until it is added again with a new key".into(),
    };
    let mut text = format!("booted {name} {until}; {}\n", cut_text(booted.link_cut));
    if booted.compromised {
        text += &format!(
            "{} ended, {} must choose a new password\n",
            count(booted.sessions_ended, "session"),
            count(booted.passwords_due, "user"),
        );
        if let Some(dir) = dir {
            text += &format!("{}\n", back_from_compromise(dir));
        }
    }
    text
}

fn admitted_text(admitted: &WorkerAdmitted) -> String {
    let name = &admitted.name;
    if admitted.was_booted {
        format!("{name} may connect again")
    } else {
        format!("{name} was not booted: nothing has changed")
    }
}
