//! How long the SDK waits, how much it takes, and whom it believes.

use std::time::Duration;

use crate::trust::Trust;

/// Waits and limits. The defaults suit a person at a terminal and a bot alike.
#[derive(Debug, Clone)]
pub struct Options {
    /// The deployment that every server must belong to. `None` takes that of the first server.
    pub deployment: Option<String>,
    /// The client's own region: the workers that say they are in it are tried first, and after a login
    /// or a resume it goes to one of them if it is at another worker.
    pub region: Option<String>,
    /// By what chance decides among servers that are equally good. `None`: it is another for each
    /// client, so that many clients spread.
    pub seed: Option<u64>,
    /// Which certificates are taken from servers that are spoken to with TLS.
    pub trust: Trust,
    /// For how long [`crate::Client::connect`] tries its servers, round after round. Each server
    /// is tried once at least.
    pub connect_patience: Duration,
    /// For how long a request whose connection was lost is tried on other servers, and an order
    /// whose server is busy or away is sent again.
    pub patience: Duration,
    /// The longest that one server may take to accept a connection, for the TLS handshake and to
    /// answer `hello`.
    pub connect_timeout: Duration,
    /// The longest silence on one request before its connection counts as lost. It must be longer
    /// than the 10 seconds for which a worker may keep an order.
    pub answer_timeout: Duration,
    /// After this silence the SDK says `ping`; after another one the connection counts as lost.
    pub silence: Duration,
    /// How old the list of workers may be: beside the next request after that a new one is asked for, so
    /// that whoever stays at one worker for long knows those that have come since.
    pub list_age: Duration,
    /// The most bytes of one answer that are taken.
    pub max_answer: usize,
    /// How many requests may wait for their first answer at once; more wait their turn.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            deployment: None,
            region: None,
            seed: None,
            trust: Trust::default(),
            connect_patience: Duration::from_secs(2),
            patience: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            list_age: Duration::from_secs(30),
            max_answer: 64 * 1024 * 1024,
            in_flight: 64,
        }
    }
}
