//! `register`, `login`, `logout`, `password`, `user`.

use std::io::{self, BufRead};

use papertrader_client::{ClientError, Password};
use papertrader_core::names::{Email, UserName};
use papertrader_protocol::Reason;

use super::{Context, DEFAULT_SERVER, LoggedIn, certificates_to_keep, user_name, workers_to_keep};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::money;
use crate::output::time::Nanos;
use crate::prompt;
use crate::session_file::SavedSession;

pub(super) async fn register(
    context: &Context<'_>,
    name: &str,
    email: &str,
    password_stdin: bool,
) -> Result<(), CliError> {
    let name = user_name(name)?;
    let email: Email = email.parse().map_err(|_| CliError::input(Reason::BadEmail))?;
    let password = read_password(&name, password_stdin, true)?;
    let client = context.connect().await?;
    let user = client.register(&name, &email, &password).await?;
    client.close().await;
    let output = context.output;
    if output.json {
        return output.object(&json::Account { user });
    }
    let login = context.hints.command(&format!("login {user}"));
    output.text(&format!("registered {user}; log in with: {login}"))
}

pub(super) async fn login(
    context: &Context<'_>,
    name: &str,
    password_stdin: bool,
) -> Result<(), CliError> {
    let name = user_name(name)?;
    let password = read_password(&name, password_stdin, false)?;
    let client = context.connect().await?;
    let grant = client.login(&name, &password, true).await?;
    // The list comes behind the session; this answer is behind the list.
    client.worker_list().await?;
    let saved = SavedSession {
        session: grant.session.to_hex(),
        user: grant.name.clone(),
        deployment: client.welcome().deployment,
        servers: context.servers(context.file.load()?.as_ref()),
        workers: workers_to_keep(&client),
        certificates: certificates_to_keep(&client),
    };
    context.file.save(&saved)?;
    let server = client.server();
    // The log-in itself does not say it; whatever else is wrong, the user is logged in.
    let due = match client.user_info(&name).await {
        Ok(_) => Some(false),
        Err(ClientError::Refused(failure)) if failure.reason == Reason::PasswordChangeRequired => {
            Some(true)
        }
        Err(_) => None,
    };
    client.close().await;
    let output = context.output;
    if output.json {
        return output.object(&json::Login::new(&grant, server, saved.deployment, due));
    }
    output.text(&format!("logged in as {} until {}", grant.name, grant.expires.local()))?;
    if due == Some(true) {
        let password = context.hints.command("password");
        output.notice(&format!(
            "a new password is due before anything else, as others may know this one: {password}"
        ));
    }
    Ok(())
}

pub(super) async fn logout(context: &Context<'_>, everywhere: bool) -> Result<(), CliError> {
    let servers = match context.file.load()? {
        // With the session goes what it knew of the servers.
        Some(saved) if context.given.is_empty() && saved.servers != [DEFAULT_SERVER] => {
            Some(saved.servers)
        }
        _ => None,
    };
    let user = match context.logged_in().await {
        Ok(LoggedIn { client, saved }) => {
            if everywhere {
                client.logout_everywhere().await?;
            } else {
                client.logout().await?;
            }
            client.close().await;
            saved.user
        }
        // It has ended by itself: what is left is the file. Others cannot be ended without one.
        Err(CliError::SessionEnded { user }) if !everywhere => user,
        Err(error) => return Err(error),
    };
    context.file.remove()?;
    let output = context.output;
    if output.json {
        return output.object(&json::Account { user });
    }
    let words = format!("login {user}");
    let login = match servers {
        Some(servers) => context.hints.at(&servers, &words),
        None => context.hints.command(&words),
    };
    let everywhere = if everywhere { " everywhere" } else { "" };
    output.text(&format!("logged out {user}{everywhere}; log in again with: {login}"))
}

pub(super) async fn password(context: &Context<'_>, password_stdin: bool) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let name = session.user(None)?;
    let old = ask_password(&format!("old password of {name}: "), password_stdin)?;
    let new = ask_password("new password: ", password_stdin)?;
    if !password_stdin && ask_password("again: ", false)? != new {
        return Err(CliError::PasswordsDiffer);
    }
    session.client.change_password(&name, &old, &new).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::Account { user: name.to_string() });
    }
    output.text(&format!("the password of {name} is changed; all other sessions have ended"))
}

pub(super) async fn user(context: &Context<'_>, user: Option<String>) -> Result<(), CliError> {
    let session = context.logged_in().await?;
    let info = session.client.user_info(&session.user(user)?).await?;
    session.finish(context).await?;
    let output = context.output;
    if output.json {
        return output.object(&json::User::from(&info));
    }
    let mut text = format!("{}, since {}\n", info.name, info.since.local());
    if let Some(private) = &info.private {
        let password = if private.is_password { "set" } else { "none" };
        text += &format!("email        {}\n", private.email);
        text += &format!("password     {password}\n");
        text += &format!("cash         {}\n", money(private.cash));
        text += &format!("held         {}\n", money(private.held_cash));
        text += &format!("equity       {}\n", money(private.equity));
        text += &format!("started with {}\n", money(private.granted));
        text += &format!("open orders  {}\n", private.open_orders);
    }
    output.text(&text)
}

/// The next line of standard input, or typed without echo; twice where a mistake would lock the user
/// out.
fn read_password(name: &UserName, stdin: bool, twice: bool) -> Result<Password, CliError> {
    let password = ask_password(&format!("password of {name}: "), stdin)?;
    if twice && !stdin && ask_password("again: ", false)? != password {
        return Err(CliError::PasswordsDiffer);
    }
    Ok(password)
}

fn ask_password(question: &str, stdin: bool) -> Result<Password, CliError> {
    let password = if stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(CliError::PasswordInput)?;
        Password::new(first_line(&line))
    } else {
        Password::new(prompt::secret(question).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => CliError::Interrupted,
            _ => CliError::PasswordInput(error),
        })?)
    };
    if password.is_empty() { Err(CliError::PasswordEmpty) } else { Ok(password) }
}

/// Without the end of the line, whichever system wrote it.
fn first_line(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_end_and_nothing_else() {
        for (line, password) in
            [("pw\n", "pw"), ("pw\r\n", "pw"), ("pw", "pw"), (" p w \n", " p w "), ("\n", "")]
        {
            assert_eq!(first_line(line), password);
        }
    }
}
