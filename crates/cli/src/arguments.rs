//! The command line: every command and option, with its help text.
//!
//! Values with a grammar of the protocol (symbols, quantities, names) stay text here: the commands
//! refuse them in the words of the protocol.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::admin::AdminArgs;
use crate::bench::BenchArgs;
use crate::server::ServerCommand;

/// Practise investing on real prices.
#[derive(Debug, Parser)]
#[command(name = "papertrader", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command, as they were typed. What the environment says instead is read here and
/// not by the parser, whose words about a wrong command line would name it as if it were needed.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// A server to connect to; may be repeated; tcp://HOST:PORT for plain TCP instead of TLS
    /// [default: $PAPERTRADER_SERVER, or those of the last login, or 127.0.0.1:2049]
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        help_heading = "Client options",
        value_delimiter = ','
    )]
    pub(crate) server: Vec<String>,
    /// Prefer servers of this region [default: $PAPERTRADER_REGION]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Client options")]
    pub(crate) region: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true, help_heading = "Client options")]
    pub(crate) json: bool,
    /// Where the session and the known servers are kept [default: $PAPERTRADER_CONFIG_DIR, or
    /// $XDG_CONFIG_HOME/papertrader, or ~/.config/papertrader]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Client options")]
    pub(crate) config_dir: Option<PathBuf>,
}

impl Global {
    /// The servers that were typed, else those of the environment.
    pub(crate) fn servers(&self) -> Vec<String> {
        let servers = match (self.server.is_empty(), std::env::var("PAPERTRADER_SERVER")) {
            (true, Ok(servers)) => servers.split(',').map(str::to_owned).collect(),
            _ => self.server.clone(),
        };
        // A variable that is set to nothing names no server.
        servers.into_iter().filter(|server| !server.is_empty()).collect()
    }

    /// The region that was typed, else that of the environment.
    pub(crate) fn region(&self) -> Option<String> {
        let set = || std::env::var("PAPERTRADER_REGION").ok();
        self.region.clone().or_else(set).filter(|region| !region.is_empty())
    }

    /// The directory that was typed, else that of the environment.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        let set = || std::env::var_os("PAPERTRADER_CONFIG_DIR").filter(|dir| !dir.is_empty());
        self.config_dir.clone().or_else(|| set().map(PathBuf::from))
    }
}

/// A group of commands is a flattened variant, so that each group keeps its own file.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Server(ServerCommand),
    #[command(flatten)]
    Client(ClientCommand),
    /// Operate the master that runs on this machine
    Admin(AdminArgs),
    /// Measure this program on this machine
    Bench(BenchArgs),
    /// Print the completions of a shell
    Completions { shell: Shell },
}

/// What a client of a running server does.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Make an account
    Register {
        /// 1 to 24 letters, digits, '_', '-' and '.'
        name: String,
        /// Where mail reaches you
        #[arg(long)]
        email: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Log in and keep the session
    Login {
        /// Your user name
        name: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// End the session
    Logout {
        /// End all sessions of the account, on all devices
        #[arg(long)]
        everywhere: bool,
    },
    /// Change the password
    Password {
        /// Read the old password from the first line of standard input and the new one from the
        /// second
        #[arg(long)]
        password_stdin: bool,
    },
    /// Buy at the next price
    Buy(OrderArguments),
    /// Sell at the next price
    Sell(OrderArguments),
    /// Show cash and positions
    Portfolio {
        /// Whose [default: your own]
        user: Option<String>,
    },
    /// Show what has happened on the account
    History {
        /// Whose [default: your own]
        user: Option<String>,
    },
    /// Show an account
    User {
        /// Whose [default: your own]
        user: Option<String>,
    },
    /// List all assets with their latest prices
    Assets,
    /// Show today's values of assets
    Quote {
        /// For example AAPL
        #[arg(required = true)]
        symbols: Vec<String>,
    },
    /// Draw the history of an asset
    Chart(ChartArguments),
    /// Show a baseline prediction
    Forecast {
        /// For example AAPL
        symbol: String,
        /// Market days ahead, 1 to 60
        #[arg(long, default_value_t = 10)]
        days: u32,
    },
    /// Show open and recent orders
    Orders,
    /// Cancel an open order
    Cancel {
        /// The client order ID, or the number of the order
        id: String,
    },
    /// List the servers
    Workers,
    /// Look at the certificate of a server, and remember it
    Trust {
        /// The server
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The SHA-256 fingerprint that the operator gives, 64 hexadecimal digits; without it you
        /// are asked
        #[arg(long, value_name = "HEX")]
        fingerprint: Option<String>,
    },
    /// Follow the prices of assets
    Watch {
        /// For example AAPL
        #[arg(required = true)]
        symbols: Vec<String>,
        /// End after so many updates
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
}

/// What to buy or sell.
#[derive(Debug, Args)]
pub(crate) struct OrderArguments {
    /// For example AAPL
    pub(crate) symbol: String,
    /// How many, with up to 8 decimals
    #[arg(allow_hyphen_values = true)]
    pub(crate) quantity: String,
    /// Your own name for the order: the same ID never buys twice [default: a new UUID]
    #[arg(long, value_name = "CLIENT_ORDER_ID")]
    pub(crate) id: Option<String>,
    /// Return as soon as the order is queued
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long to wait for the order to fill
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) wait: u64,
}

/// What to draw.
#[derive(Debug, Args)]
pub(crate) struct ChartArguments {
    /// For example AAPL
    pub(crate) symbol: String,
    /// The window that ends with the date
    #[arg(long, value_enum, default_value_t = Range::Month, conflicts_with = "bars")]
    pub(crate) range: Range,
    /// The last date of the window, YYYY-MM-DD [default: the market's]
    #[arg(long, conflicts_with = "bars")]
    pub(crate) date: Option<String>,
    /// Bars of this resolution instead of a range; needs --from
    #[arg(long, value_name = "interval|hour|day|month", requires = "from")]
    pub(crate) bars: Option<String>,
    /// The first date of the bars, YYYY-MM-DD
    #[arg(long, requires = "bars")]
    pub(crate) from: Option<String>,
    /// The date before which the bars end, YYYY-MM-DD [default: the market's time]
    #[arg(long, requires = "bars")]
    pub(crate) to: Option<String>,
}

/// The windows of the getAssetValue… instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Range {
    /// One day, at the update interval
    Day,
    /// Seven days, daily
    Week,
    /// One month, daily
    Month,
    /// One year, monthly
    Year,
    /// Everything, monthly
    All,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_negative_quantity_reaches_the_command() {
        let arguments = Arguments::try_parse_from(["papertrader", "buy", "AAPL", "-5"]).unwrap();
        let Command::Client(ClientCommand::Buy(order)) = arguments.command else { panic!() };
        assert_eq!(order.quantity, "-5");
    }
}
