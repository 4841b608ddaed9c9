//! What the servers of this program write into their event log, as text.

use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

static EVENTS: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);
static START: Once = Once::new();

/// Keeps every event from now on.
pub(crate) fn keep() {
    START.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// Whether an event was written that holds all of these texts.
pub(crate) fn written(texts: &[&str]) -> bool {
    let events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    events.iter().any(|event| texts.iter().all(|text| event.contains(text)))
}

/// Everything that was written about something.
pub(crate) fn about(text: &str) -> Vec<String> {
    let events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
    events.iter().filter(|event| event.contains(text)).cloned().collect()
}

struct Keep;

impl<S: tracing::Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        EVENTS.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
