//! The commands, and what they share: finding the servers, connecting, the kept session, the
//! certificates that are remembered.
//!
//! Each group of commands has its file. A command asks through the SDK and prints through
//! [`crate::output`].

mod account;
mod chart;
pub(crate) mod completions;
mod market;
mod trade;
mod trust;
mod watch;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use papertrader_client::{Client, ClientError, Learnt, Options, Trust};
use papertrader_core::names::{Symbol, UserName};
use papertrader_protocol::Reason;

use crate::arguments::{ClientCommand, Global};
use crate::config_dir::ConfigDir;
use crate::error::{CliError, is_about_session};
use crate::hint::Hints;
use crate::known_servers::{KnownServers, News};
use crate::output::Output;
use crate::session_file::{SavedSession, SessionFile};

/// Where a server is if nothing else is known; spoken to with TLS.
const DEFAULT_SERVER: &str = "127.0.0.1:2049";
/// Stands before the address of a server that is spoken to without TLS.
const PLAIN: &str = "tcp://";

/// Runs a client's command to its end.
pub(crate) fn run(
    command: ClientCommand,
    global: &Global,
    hints: &Hints,
    output: &Output,
) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Start)?;
    let config = ConfigDir::locate(global.directory().as_deref())?;
    let context = Context {
        file: SessionFile::of(&config),
        known: KnownServers::of(&config),
        given: global.servers(),
        region: global.region(),
        hints,
        output: *output,
        client: OnceCell::new(),
    };
    runtime.block_on(async {
        let done = dispatch(command, &context).await;
        // Also after a failure: what was seen was seen.
        let remembered = context.client.get().map_or(Ok(()), |client| context.remember(client));
        done.and(remembered)
    })
}

async fn dispatch(command: ClientCommand, context: &Context<'_>) -> Result<(), CliError> {
    use papertrader_core::order::Side;
    match command {
        ClientCommand::Register { name, email, password_stdin } => {
            account::register(context, &name, &email, password_stdin).await
        }
        ClientCommand::Login { name, password_stdin } => {
            account::login(context, &name, password_stdin).await
        }
        ClientCommand::Logout { everywhere } => account::logout(context, everywhere).await,
        ClientCommand::Password { password_stdin } => {
            account::password(context, password_stdin).await
        }
        ClientCommand::User { user } => account::user(context, user).await,
        ClientCommand::Buy(order) => trade::order(context, Side::Buy, order).await,
        ClientCommand::Sell(order) => trade::order(context, Side::Sell, order).await,
        ClientCommand::Portfolio { user } => trade::portfolio(context, user).await,
        ClientCommand::History { user } => trade::history(context, user).await,
        ClientCommand::Orders => trade::orders(context).await,
        ClientCommand::Cancel { id } => trade::cancel(context, &id).await,
        ClientCommand::Assets => market::assets(context).await,
        ClientCommand::Quote { symbols } => market::quote(context, &symbols).await,
        ClientCommand::Forecast { symbol, days } => market::forecast(context, &symbol, days).await,
        ClientCommand::Workers => market::workers(context).await,
        ClientCommand::Trust { address, fingerprint } => {
            trust::trust(context, &address, fingerprint.as_deref()).await
        }
        ClientCommand::Chart(chart) => chart::chart(context, chart).await,
        ClientCommand::Watch { symbols, count } => watch::watch(context, &symbols, count).await,
    }
}

/// What every command has.
struct Context<'a> {
    file: SessionFile,
    known: KnownServers,
    /// The servers of the command line or the environment.
    given: Vec<String>,
    /// The user's own region.
    region: Option<String>,
    hints: &'a Hints,
    output: Output,
    /// The one that was connected.
    client: OnceCell<Client>,
}

/// A client whose session is in use, and what is kept of it.
struct LoggedIn {
    client: Client,
    saved: SavedSession,
}

impl Context<'_> {
    /// Those that are given, else those that are kept, else the default.
    fn servers(&self, saved: Option<&SavedSession>) -> Vec<String> {
        if !self.given.is_empty() {
            return self.given.clone();
        }
        let mut servers: Vec<String> = Vec::new();
        for server in saved.into_iter().flat_map(|saved| saved.workers.iter().chain(&saved.servers))
        {
            if !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        if servers.is_empty() {
            servers.push(DEFAULT_SERVER.to_owned());
        }
        servers
    }

    /// Connects without a session.
    async fn connect(&self) -> Result<Client, CliError> {
        let saved = self.file.load()?;
        self.open(saved.as_ref(), None).await
    }

    /// Connects, and remembers new certificates before anything secret is sent.
    async fn open(
        &self,
        saved: Option<&SavedSession>,
        deployment: Option<String>,
    ) -> Result<Client, CliError> {
        let known = self.known.load()?.into_iter().collect();
        // One that cannot be read is none: it is the list's to say it again.
        let kept = saved.into_iter().flat_map(|saved| &saved.certificates);
        let listed = kept.filter_map(|(at, print)| Some((at.clone(), print.parse().ok()?)));
        let trust = Trust { known, listed: listed.collect(), ..Trust::default() };
        let region = self.region.clone();
        let options = Options { deployment, region, trust, ..Options::default() };
        let client = Client::connect(&self.servers(saved), options).await?;
        self.remember(&client)?;
        let server = client.server();
        if server.starts_with(PLAIN) {
            self.output.notice(&format!(
                "warning: the connection to {server} is not encrypted: whoever is on the way can \
                 read and change everything, and use your session"
            ));
        }
        // A command connects once.
        let _ = self.client.set(client.clone());
        Ok(client)
    }

    /// Keeps what the client has learnt of certificates, and says what the user should know of it.
    fn remember(&self, client: &Client) -> Result<(), CliError> {
        for news in self.known.learn(client.learnt())? {
            self.output.notice(&match news {
                News::FirstUse(Learnt { server, fingerprint, .. }) => format!(
                    "{server} is new here: its certificate SHA-256 {fingerprint} is remembered"
                ),
                News::Renewed(Learnt { server, fingerprint, .. }, before) => format!(
                    "{server} has another certificate, for which an authority of this system \
                     vouches: SHA-256 {fingerprint} is remembered instead of {before}"
                ),
            });
        }
        Ok(())
    }

    /// Connects, and takes the kept session into use.
    async fn logged_in(&self) -> Result<LoggedIn, CliError> {
        let saved = self.file.load()?.ok_or(CliError::NotLoggedIn)?;
        let Ok(session) = saved.session.parse() else { return Err(CliError::NotLoggedIn) };
        let client = self.open(Some(&saved), Some(saved.deployment.clone())).await?;
        match client.resume(session).await {
            Ok(_) => Ok(LoggedIn { client, saved }),
            Err(ClientError::Refused(failure)) if is_about_session(&failure) => {
                Err(CliError::SessionEnded { user: saved.user })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl LoggedIn {
    /// The user that a command is about: the one given, else one's own.
    fn user(&self, given: Option<String>) -> Result<UserName, CliError> {
        user_name(given.as_deref().unwrap_or(&self.saved.user))
    }

    /// Ends the connection and keeps what was learnt about the servers.
    async fn finish(self, context: &Context<'_>) -> Result<(), CliError> {
        let mut workers = workers_to_keep(&self.client);
        let listed = certificates_to_keep(&self.client);
        // Without a list, the last one counts.
        let certificates = if listed.is_empty() { self.saved.certificates.clone() } else { listed };
        self.client.close().await;
        // One command over plain TCP does not make the next ones plain.
        let is_plain = |server: &String| server.starts_with(PLAIN);
        if !self.saved.servers.iter().any(is_plain) {
            workers.retain(|server| !is_plain(server));
        }
        if workers != self.saved.workers || certificates != self.saved.certificates {
            context.file.save(&SavedSession { workers, certificates, ..self.saved })?;
        }
        Ok(())
    }
}

/// The server in use first, then the others of the last list.
fn workers_to_keep(client: &Client) -> Vec<String> {
    let mut workers = vec![client.server()];
    workers.extend(client.listed().into_iter().filter(|listed| *listed != client.server()));
    workers
}

/// What the last list says of the workers' certificates.
fn certificates_to_keep(client: &Client) -> BTreeMap<String, String> {
    let listed = client.listed_certificates().into_iter();
    listed.map(|(at, fingerprint)| (at, fingerprint.to_string())).collect()
}

fn user_name(text: &str) -> Result<UserName, CliError> {
    text.parse().map_err(|_| CliError::input(Reason::BadUserName))
}

/// Symbols are written in capitals; people may type what they like.
fn symbol(text: &str) -> Result<Symbol, CliError> {
    text.to_uppercase().parse().map_err(|_| CliError::input(Reason::BadSymbol))
}
