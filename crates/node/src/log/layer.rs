//! From `tracing` to entries of the log.
//!
//! It neither filters nor stores. Invariant: what the caller's values print is formatted before
//! any lock is taken, so that a value that logs, or panics, while it is formatted does no harm.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::EventLog;
use super::entry::{Budget, LogEntry, now};

/// Gives the events of `tracing`, and through it those of the `log` crate, to an [`EventLog`].
#[derive(Debug)]
pub struct EventLogLayer {
    pub(super) log: EventLog,
}

impl<S> Layer<S> for EventLogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let at = now();
        let mut visitor = Visitor::new();
        event.record(&mut visitor);
        let Visitor { message, function, fields, .. } = visitor;

        // An event of the `log` crate carries its place in fields, which `visitor` leaves out.
        let normalized = event.normalized_metadata();
        let (target, file, line, module) = match &normalized {
            Some(metadata) => (
                metadata.target().to_owned().into(),
                metadata.file().map(|file| file.to_owned().into()),
                metadata.line(),
                metadata.module_path().map(|module| module.to_owned().into()),
            ),
            None => {
                let metadata = event.metadata();
                (
                    metadata.target().into(),
                    metadata.file().map(Into::into),
                    metadata.line(),
                    metadata.module_path().map(Into::into),
                )
            }
        };
        let level = *event.metadata().level();
        let function = function
            .map(Into::into)
            .or_else(|| context.event_span(event).map(|span| span.name().into()))
            .or(module)
            .unwrap_or_else(|| std::borrow::Cow::clone(&target));
        self.log.record(LogEntry { at, level, target, file, function, line, message, fields });
    }
}

struct Visitor {
    budget: Budget,
    message: String,
    function: Option<String>,
    fields: Vec<(std::borrow::Cow<'static, str>, String)>,
}

impl Visitor {
    fn new() -> Visitor {
        let (message, function, fields) = (String::new(), None, Vec::new());
        Visitor { budget: Budget::new(), message, function, fields }
    }

    fn take(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let name = field.name();
        if name.starts_with("log.") {
            return;
        }
        let text = self.budget.take(value);
        match name {
            "message" => self.message = text,
            "function" => self.function = Some(text),
            name => self.fields.push((name.into(), text)),
        }
    }
}

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.take(field, format_args!("{value}"));
        // The causes often say what the error itself does not.
        let mut cause = value.source();
        while let Some(error) = cause {
            let text = self.budget.take(format_args!(": {error}"));
            if let Some((_, known)) = self.fields.last_mut() {
                known.push_str(&text);
            }
            cause = error.source();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::MAX_TEXT;
    use super::super::{EventLog, LogConfig};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry;

    fn captured(events: impl FnOnce()) -> Vec<super::LogEntry> {
        let log = EventLog::open(&LogConfig::default()).unwrap();
        tracing::subscriber::with_default(registry().with(log.layer()), events);
        log.recent(usize::MAX)
    }

    struct Account;
    impl Account {
        fn open() -> u32 {
            crate::warn!(account = 7, name = %"eve", kind = ?Some(1), "opened {}", "late");
            line!() - 1
        }
    }

    #[test]
    fn the_macros_capture_message_fields_file_line_and_function() {
        let mut line = 0;
        let entries = captured(|| line = Account::open());
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(entry.message, "opened late");
        assert_eq!(entry.level, tracing::Level::WARN);
        assert_eq!(entry.function, "papertrader_node::log::layer::tests::Account::open");
        assert_eq!(entry.line, Some(line));
        assert!(entry.file.as_deref().unwrap().ends_with("log/layer.rs"), "{entry:?}");
        let fields: Vec<_> = entry.fields.iter().map(|(k, v)| (k.as_ref(), v.as_str())).collect();
        assert_eq!(fields, [("account", "7"), ("name", "eve"), ("kind", "Some(1)")]);
    }

    #[test]
    fn the_function_is_named_inside_closures_and_futures() {
        let entries = captured(|| {
            let inside = || crate::error!("in a closure");
            inside();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { crate::debug!("in a future") });
        });
        assert_eq!(entries.len(), 2);
        for entry in entries {
            assert!(
                entry.function.ends_with("::the_function_is_named_inside_closures_and_futures"),
                "{entry:?}"
            );
        }
    }

    #[test]
    fn a_librarys_event_has_the_spans_name_or_the_module_for_a_function() {
        let entries = captured(|| {
            tracing::info!("outside");
            tracing::info_span!("handshake").in_scope(|| tracing::info!("inside"));
        });
        assert_eq!(entries[0].function, "papertrader_node::log::layer::tests");
        assert_eq!(entries[1].function, "handshake");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("no connection")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("cable cut"));
        let entries = captured(|| {
            crate::error!(error = &error as &(dyn std::error::Error + 'static), "gave up");
        });
        assert_eq!(entries[0].fields[0].1, "no connection: cable cut");
    }

    #[test]
    fn a_huge_value_is_cut() {
        let entries = captured(|| crate::info!(rest = "b", "{}", "a".repeat(10 * MAX_TEXT)));
        assert!(entries[0].message.len() + entries[0].fields[0].1.len() < MAX_TEXT + 10);
        assert!(entries[0].message.ends_with('…') || entries[0].fields[0].1.ends_with('…'));
    }

    #[test]
    fn a_value_that_logs_while_it_is_formatted_does_not_deadlock() {
        struct Chatty;
        impl std::fmt::Display for Chatty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                crate::info!("inner");
                f.write_str("chatty")
            }
        }
        let entries = captured(|| crate::info!("{}", Chatty));
        assert_eq!(entries.last().unwrap().message, "chatty");
    }
}
