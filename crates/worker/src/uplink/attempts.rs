//! Looking for the master: every address is tried by itself, with its own growing delays, and the first
//! link that is made is taken.
//!
//! They are tried beside each other because one that does not answer at all (its machine is gone, or
//! stopped) must not hold up the one that has taken its place. At most one has a port open, but for the
//! moment in which another takes over.
//!
//! Invariant: an address is tried once at a time, and never without a pause between two tries.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::link::{ConnectError, LinkStream, WorkerSide};
use papertrader_node::warn;
use tokio::time::{sleep, timeout};

use crate::config::Config;

/// A link that was made.
pub(super) struct Made {
    /// With whom.
    pub(super) master: String,
    pub(super) stream: LinkStream,
    /// When a key expires that it rests on.
    pub(super) until: Option<WallTime>,
}

/// All addresses, until there is a link.
pub(super) struct Attempts {
    each: Vec<Attempt>,
    side: WorkerSide,
    clock: Clock,
    limit: Duration,
    longest: Duration,
    /// After a refusal.
    refused: Duration,
}

type Linked = Result<(LinkStream, Option<WallTime>), ConnectError>;

struct Attempt {
    master: String,
    connecting: Pin<Box<dyn Future<Output = Linked>>>,
    /// How long the next one waits.
    delay: Duration,
}

impl Attempts {
    /// The first tries, after a pause.
    pub(super) fn new(config: &Config, clock: &Clock, pause: Duration) -> Attempts {
        let mut attempts = Attempts {
            each: Vec::new(),
            side: config.link.clone(),
            clock: clock.clone(),
            limit: config.link_timeout,
            longest: config.reconnect_delay_max,
            refused: config.refused_delay,
        };
        for master in &config.masters {
            let connecting = attempts.connect(master.clone(), pause);
            let delay = pause.clamp(config.reconnect_delay_min, config.reconnect_delay_max);
            attempts.each.push(Attempt { master: master.clone(), connecting, delay });
        }
        attempts
    }

    /// Waits for the next try to end. If it failed, says whether that master is only away. Dropping
    /// the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Made, bool> {
        let each = &mut self.each;
        let (index, made) = poll_fn(|context| {
            let done = each.iter_mut().enumerate().find_map(|(index, attempt)| {
                match attempt.connecting.as_mut().poll(context) {
                    Poll::Ready(made) => Some((index, made)),
                    Poll::Pending => None,
                }
            });
            done.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let master = self.each[index].master.clone();
        let error = match made {
            Ok((stream, until)) => return Ok(Made { master, stream, until }),
            Err(error) => error,
        };
        let is_away = matches!(error, ConnectError::Io(_));
        // Where somebody must do something there is no hurry to try again.
        let delay = if is_away { self.each[index].delay } else { self.refused };
        warn!(%master, %error, retry_ms = delay.as_millis() as u64, "there is no link to the master");
        self.each[index].connecting = self.connect(master, delay);
        self.each[index].delay = (delay * 2).min(self.longest);
        Err(is_away)
    }

    fn connect(&self, master: String, pause: Duration) -> Pin<Box<dyn Future<Output = Linked>>> {
        let (side, clock, limit) = (self.side.clone(), self.clock.clone(), self.limit);
        Box::pin(async move {
            sleep(pause).await;
            match timeout(limit, side.connect(master, &clock)).await {
                Ok(result) => result,
                Err(_) => Err(ConnectError::Io(io::ErrorKind::TimedOut.into())),
            }
        })
    }
}
