//! What the operator sees: what is stored, together with what the workers report live.
//!
//! Everything here is answered at once from memory. Nothing is changed.

use papertrader_core::account::Account;
use papertrader_core::ids::AccountId;
use papertrader_core::names::UserName;
use papertrader_core::time::WallTime;
use papertrader_node::openpgp::KeyProblem;
use papertrader_store::{Profile, WorkerRow};

use super::message::{
    AdminError, AdminReply, Attempts, LiveWorker, SESSIONS, SessionLine, SessionLines, Stamp,
    Status, USERS, UserDetail, UserLine, UserLines, WorkerBoot, WorkerConduct, WorkerDetail,
    WorkerKey, WorkerLine, WorkerLines, WorkerReport, WorkerState, shown,
};
use crate::batch::Writing;
use crate::driver::Driver;
use crate::registry::is_booted;
use crate::workers::Link;

impl Driver {
    /// Answers `status`.
    pub(super) fn admin_status(&self) -> AdminReply {
        let (now, head) = (self.clock.now(), self.books.head());
        let attempts = self.accounts.limits.counts();
        AdminReply::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            started: self.about.started.into(),
            uptime_seconds: seconds_since(self.about.started, now),
            deployment: self.deployment.clone(),
            certificate: self.about.certificate.clone(),
            key: self.about.key.clone(),
            market_time: head.market.into(),
            snapshot: head.snapshot,
            ended: head.ended,
            source: self.assets.source().label().to_owned(),
            interval_ms: self.interval / 1_000_000,
            accounts: self.books.accounts().count() as u64,
            open_orders: self.books.open_orders().count() as u64,
            sessions: self.accounts.list_sessions(now).count() as u64,
            workers_connected: self.workers.links().count() as u64,
            workers_registered: self.workers.registry().rows().count() as u64,
            queue: self.queue.len() as u64,
            last_batch: self.last_batch.0,
            database: self.trouble().map(str::to_owned),
            port: self.about.places.counts().into(),
            attempts: Attempts {
                right: attempts.succeeded,
                wrong: attempts.failed,
                refused: attempts.refused,
                registrations_refused: attempts.registrations_refused,
                orders_refused: self.trading.rate.refused(),
            },
            limits: (&self.config).into(),
        }))
    }

    /// What is wrong with the database.
    fn trouble(&self) -> Option<&'static str> {
        if !self.tenure.is_held() {
            return Some("cannot be reached: no worker is served until it can");
        }
        let is_refused = matches!(self.writing, Writing::Waiting(_));
        is_refused.then_some("did not take what must be written: it is tried again")
    }

    /// Answers `workers list`.
    pub(super) fn admin_workers(&self) -> AdminReply {
        let now = self.clock.now();
        let registry = self.workers.registry();
        let mut workers: Vec<WorkerLine> = registry
            .rows()
            .map(|row| {
                let link = self.workers.link_of(row.id).map(|(_, link)| link);
                let status = link.and_then(|link| link.status.as_ref());
                let booted = row.booted.filter(|_| is_booted(row, now));
                WorkerLine {
                    name: row.name.clone(),
                    uuid: row.id.to_string(),
                    state: self.worker_state(row, link, now),
                    booted_until: booted.and_then(|boot| boot.until).map(Stamp::from),
                    region: link
                        .map(|link| link.hello.region())
                        .filter(|region| !region.is_empty())
                        .map(shown),
                    clients: status.map(|status| status.clients),
                    load: link.filter(|_| status.is_some()).map(Link::load),
                    round_trip_us: status.and_then(|s| measured(s.round_trip, s.round_trip)),
                    clock_offset_us: status.and_then(|s| measured(s.clock_offset, s.round_trip)),
                    address: link.map(|link| shown(link.hello.address())),
                }
            })
            .collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        AdminReply::Workers(WorkerLines { workers })
    }

    /// Answers `workers show NAME`.
    pub(super) fn admin_worker(&self, name: &str) -> Result<AdminReply, AdminError> {
        let now = self.clock.now();
        let registry = self.workers.registry();
        let unknown = || AdminError::UnknownWorker(shown(name));
        let row = registry.by_name(name).ok_or_else(unknown)?;
        let key = registry.key(row.id).map(|key| {
            let usable = key.usable(now);
            WorkerKey {
                fingerprint: key.fingerprint().to_string(),
                user_id: shown(&key.user_id()),
                valid_until: usable.as_ref().ok().and_then(|u| u.valid_until()).map(Stamp::from),
                problem: usable.err().map(|problem: KeyProblem| problem.to_string()),
            }
        });
        let link = self.workers.link_of(row.id).map(|(_, link)| link);
        let conduct = self.workers.conduct(row.id);
        let wrong = &self.accounts.limits.counts().failed_through;
        Ok(AdminReply::Worker(Box::new(WorkerDetail {
            name: row.name.clone(),
            uuid: row.id.to_string(),
            state: self.worker_state(row, link, now),
            addresses: row.allowed.split(',').map(str::to_owned).collect(),
            key,
            booted: row.booted.filter(|_| is_booted(row, now)).map(|boot| WorkerBoot {
                until: boot.until.map(Stamp::from),
                compromised: boot.compromised,
            }),
            live: link.map(|link| live(link, now)),
            conduct: WorkerConduct {
                foreign_frames: conduct.foreign_frames,
                malformed: conduct.malformed,
                foreign_sessions: conduct.foreign_sessions,
                wrong_passwords: wrong.get(&row.id).copied().unwrap_or(0),
                last_time: conduct.last.as_ref().map(|(time, _)| Stamp::from(*time)),
                last: conduct.last.map(|(_, words)| words),
            },
        })))
    }

    /// Answers `sessions list`.
    pub(super) fn admin_sessions(&self, user: Option<&str>) -> Result<AdminReply, AdminError> {
        let now = self.clock.now();
        let of = user.map(|name| self.admin_find(name)).transpose()?;
        let all = self.accounts.list_sessions(now);
        let mut views: Vec<_> =
            all.filter(|view| of.is_none_or(|account| view.account == account)).collect();
        views.sort_unstable_by_key(|view| std::cmp::Reverse((view.used, view.started)));
        let more = views.len().saturating_sub(SESSIONS) as u64;
        views.truncate(SESSIONS);
        let sessions = views.into_iter().map(|view| {
            let links = view.present.iter().filter_map(|id| self.workers.link(*id));
            SessionLine {
                handle: view.handle,
                user: self.accounts.name(view.account),
                client: view.client.to_string(),
                started: view.started.into(),
                used: view.used.into(),
                expires: view.expires.into(),
                expirable: view.expirable,
                workers: links.map(|link| link.name.clone()).collect(),
            }
        });
        Ok(AdminReply::Sessions(SessionLines { sessions: sessions.collect(), more }))
    }

    /// Answers `users list`.
    pub(super) fn admin_users(&self, after: u32) -> AdminReply {
        let mut users = Vec::new();
        let mut id = AccountId(after.saturating_add(1));
        while users.len() < USERS {
            let Some((profile, account)) = self.admin_account(id) else { break };
            users.push(UserLine {
                id: id.0,
                user: profile.name.to_string(),
                since: profile.since.into(),
                open_orders: account.open_orders,
                sessions: self.accounts.sessions_of(id).len() as u64,
                password_due: profile.password_due,
                disabled: account.disabled,
            });
            id = AccountId(id.0.saturating_add(1));
        }
        AdminReply::Users(UserLines { users, more: self.admin_account(id).is_some() })
    }

    /// Answers `users show NAME`.
    pub(super) fn admin_user(&self, name: &str) -> Result<AdminReply, AdminError> {
        let id = self.admin_find(name)?;
        let unknown = || AdminError::UnknownUser(shown(name));
        let (profile, account) = self.admin_account(id).ok_or_else(unknown)?;
        Ok(AdminReply::User(Box::new(UserDetail {
            id: id.0,
            user: profile.name.to_string(),
            email: profile.email.to_string(),
            since: profile.since.into(),
            cash: account.cash.to_string(),
            held_cash: account.held_cash.to_string(),
            equity: self.books.equity(account).to_string(),
            positions: account.positions.len() as u64,
            open_orders: account.open_orders,
            sessions: self.accounts.sessions_of(id).len() as u64,
            is_password: profile.pass_hash.is_some(),
            password_due: profile.password_due,
            disabled: account.disabled,
        })))
    }

    /// Whose a name is.
    pub(super) fn admin_find(&self, name: &str) -> Result<AccountId, AdminError> {
        let name_of = name.parse::<UserName>().ok();
        let found = name_of.and_then(|name| self.accounts.find(&name));
        found.ok_or_else(|| AdminError::UnknownUser(shown(name)))
    }

    fn admin_account(&self, id: AccountId) -> Option<(&Profile, &Account)> {
        Some((self.accounts.profile(id)?, self.books.account(id)?))
    }

    fn worker_state(&self, row: &WorkerRow, link: Option<&Link>, now: WallTime) -> WorkerState {
        if link.is_some() {
            return WorkerState::Connected;
        }
        if is_booted(row, now) {
            return WorkerState::Booted;
        }
        match self.workers.registry().key(row.id) {
            Some(key) if key.usable(now).is_ok() => WorkerState::Away,
            _ => WorkerState::BadKey,
        }
    }
}

fn live(link: &Link, now: WallTime) -> LiveWorker {
    LiveWorker {
        since: link.since.into(),
        peer: link.peer.to_string(),
        version: shown(link.hello.version()),
        address: shown(link.hello.address()),
        web: shown(link.hello.web()),
        certificate: shown(link.hello.fingerprint()),
        region: shown(link.hello.region()),
        report: link.status.as_ref().map(|status| WorkerReport {
            started: status.started.into(),
            uptime_seconds: seconds_since(status.started, now),
            clients: status.clients,
            load: link.load(),
            sessions: status.sessions,
            orders: status.orders,
            cache_bytes: status.cache_bytes,
            cache_limit: status.cache_limit,
            cache_hits: status.cache_hits,
            cache_misses: status.cache_misses,
            cache_evictions: status.cache_evictions,
            outgoing_bytes: status.outgoing_bytes,
            refused_connections: status.refused_connections,
            cut_connections: status.cut_connections,
            throttled_requests: status.throttled_requests,
            round_trip_us: measured(status.round_trip, status.round_trip),
            clock_offset_us: measured(status.clock_offset, status.round_trip),
        }),
    }
}

/// Nanoseconds as microseconds, if there was a ping to measure them by.
fn measured(nanos: i64, round_trip: i64) -> Option<i64> {
    (round_trip != 0).then_some(nanos / 1_000)
}

fn seconds_since(then: WallTime, now: WallTime) -> i64 {
    now.0.saturating_sub(then.0).max(0) / 1_000_000_000
}
