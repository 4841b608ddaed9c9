//! Telling every part of a server to drain and end.

use tokio::sync::watch;

/// Ends what holds the [`Shutdown`] made with it.
#[derive(Debug, Clone)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for the end. Clones wait for the same end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Starts the end. Calling it again changes nothing.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns when the end has started; at once if it has already. A dropped [`Trigger`] counts
    /// as the end.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|ended| *ended).await;
    }

    /// Whether the end has started.
    pub fn is_pulled(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
