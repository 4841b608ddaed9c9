//! `papertrader admin sessions …` and `papertrader admin users …`.

use papertrader_master::admin::message::{
    SessionLines, SessionsRevoked, UserDetail, UserDisabled, UserEnabled, UserLine,
};
use papertrader_master::admin::{AdminReply, AdminRequest, Client};
use serde::Serialize;

use super::text::{Fields, count};
use super::{Master, SessionsCommand, UsersCommand, not_understood};
use crate::error::CliError;
use crate::output::money::money;
use crate::output::table::{Align, Table};
use crate::output::time::{Nanos, zone_line};

pub(super) fn sessions(master: &Master, command: SessionsCommand) -> Result<(), CliError> {
    let request = match command {
        SessionsCommand::List { user } => AdminRequest::ListSessions { user },
        SessionsCommand::Revoke { handle: Some(handle), .. } => {
            AdminRequest::RevokeSession { handle }
        }
        SessionsCommand::Revoke { handle: None, user } => {
            // The command line demands one of the two.
            AdminRequest::RevokeSessions { user: user.unwrap_or_default() }
        }
    };
    match master.ask(request)? {
        AdminReply::Sessions(sessions) => master.show(&sessions, sessions_text),
        AdminReply::SessionsRevoked(revoked) => master.show(&revoked, revoked_text),
        _ => Err(not_understood()),
    }
}

fn sessions_text(list: &SessionLines) -> String {
    if list.sessions.is_empty() {
        return "no sessions".into();
    }
    let mut table = Table::new(&[
        ("handle", Align::Left),
        ("user", Align::Left),
        ("from", Align::Left),
        ("started", Align::Left),
        ("last used", Align::Left),
        ("expires", Align::Left),
        ("workers", Align::Left),
    ]);
    for session in &list.sessions {
        table.row([
            session.handle.as_str().into(),
            session.user.as_str().into(),
            session.client.as_str().into(),
            session.started.cell().into(),
            session.used.cell().into(),
            session.expires.cell().into(),
            session.workers.join(", ").into(),
        ]);
    }
    let mut text = table.draw(false) + &zone_line();
    if list.more > 0 {
        text += &format!("\nand {} more: --user NAME shows those of one user\n", list.more);
    }
    text
}

fn revoked_text(revoked: &SessionsRevoked) -> String {
    format!("{} of {} ended", count(revoked.sessions_ended, "session"), revoked.user)
}

pub(super) fn users(master: &Master, command: UsersCommand) -> Result<(), CliError> {
    let request = match command {
        UsersCommand::List => return list(master),
        UsersCommand::Show { name } => AdminRequest::ShowUser { name },
        UsersCommand::Disable { name } => AdminRequest::DisableUser { name },
        UsersCommand::Enable { name } => AdminRequest::EnableUser { name },
    };
    match master.ask(request)? {
        AdminReply::User(user) => master.show(&user, |user| user_text(user)),
        AdminReply::UserDisabled(disabled) => master.show(&disabled, disabled_text),
        AdminReply::UserEnabled(enabled) => master.show(&enabled, enabled_text),
        _ => Err(not_understood()),
    }
}

/// All users, however many pages they take.
#[derive(Debug, Serialize)]
struct Users {
    users: Vec<UserLine>,
}

fn list(master: &Master) -> Result<(), CliError> {
    let mut client = Client::connect(&master.dir)?;
    let mut users: Vec<UserLine> = Vec::new();
    loop {
        let after = users.last().map_or(0, |user| user.id);
        match client.ask(&AdminRequest::ListUsers { after })? {
            AdminReply::Users(page) => {
                let goes_on = page.more && !page.users.is_empty();
                users.extend(page.users);
                if !goes_on {
                    break;
                }
            }
            _ => return Err(not_understood()),
        }
    }
    master.show(&Users { users }, users_text)
}

fn users_text(list: &Users) -> String {
    if list.users.is_empty() {
        return "no users".into();
    }
    let mut table = Table::new(&[
        ("number", Align::Right),
        ("name", Align::Left),
        ("since", Align::Left),
        ("sessions", Align::Right),
        ("open orders", Align::Right),
        ("state", Align::Left),
    ]);
    for user in &list.users {
        table.row([
            user.id.to_string().into(),
            user.user.as_str().into(),
            user.since.cell().into(),
            user.sessions.to_string().into(),
            user.open_orders.to_string().into(),
            state(user.disabled, user.password_due).into(),
        ]);
    }
    table.draw(false) + &zone_line()
}

fn state(disabled: bool, password_due: bool) -> &'static str {
    match (disabled, password_due) {
        (true, true) => "disabled, new password due",
        (true, false) => "disabled",
        (false, true) => "new password due",
        (false, false) => "",
    }
}

fn user_text(user: &UserDetail) -> String {
    let mut fields = Fields::default();
    fields.put("number", user.id);
    fields.put("email", &user.email);
    fields.put(
        "password",
        match (user.is_password, user.password_due) {
            (false, _) => "none",
            (true, false) => "set",
            (true, true) => "set, a new one is due",
        },
    );
    // The master's own amounts; any other text is shown as it is.
    let amount = |text: &str| text.parse().map_or_else(|_| text.to_owned(), money);
    fields.put("cash", amount(&user.cash));
    fields.put("held", amount(&user.held_cash));
    fields.put("equity", amount(&user.equity));
    fields.put("positions", user.positions);
    fields.put("open orders", user.open_orders);
    fields.put("sessions", user.sessions);
    let disabled = if user.disabled { ", disabled" } else { "" };
    format!("{}, since {}{disabled}\n{}", user.user, user.since.local(), fields.text())
}

fn disabled_text(disabled: &UserDisabled) -> String {
    let user = &disabled.user;
    if disabled.was_disabled {
        return format!("{user} was disabled already: nothing has changed");
    }
    format!(
        "disabled {user}: {} cancelled, {} ended",
        count(disabled.orders_cancelled, "open order"),
        count(disabled.sessions_ended, "session"),
    )
}

fn enabled_text(enabled: &UserEnabled) -> String {
    let user = &enabled.user;
    if enabled.was_disabled {
        format!("{user} may log in again")
    } else {
        format!("{user} was not disabled: nothing has changed")
    }
}
