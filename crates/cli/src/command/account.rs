//! `register`, `login`, `logout`, `password`, `user`.

use std::io::{self, BufRead};

use papertrader_client::Password;
use papertrader_core::names::{Email, UserName};
use papertrader_protocol::Reason;

use super::{Context, LoggedIn, user_name, workers_to_keep};
use crate::error::CliError;
use crate::output::json;
use crate::output::money::money;
use crate::output::time::Nanos;
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
    output.text(&format!("registered {user}; log in with: papertrader login {user}"))
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
    };
    context.file.save(&saved)?;
    let server = client.server();
    client.close().await;
    let output = context.output;
    if output.json {
        return output.object(&json::Login::new(&grant, server, saved.deployment));
    }
    output.text(&format!("logged in as {} until {}", grant.name, grant.expires.local()))
}

pub(super) async fn logout(context: &Context<'_>, everywhere: bool) -> Result<(), CliError> {
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
    output.text(&format!("logged out {user}{}", if everywhere { " everywhere" } else { "" }))
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

fn ask_password(prompt: &str, stdin: bool) -> Result<Password, CliError> {
    let password = if stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(CliError::PasswordInput)?;
        Password::new(first_line(&line))
    } else {
        Password::new(rpassword::prompt_password(prompt).map_err(CliError::PasswordInput)?)
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
