//! The event log as a process has it: one subscriber, one panic hook, for good. Therefore this
//! file has one test, which tells one story.

use std::fmt;
use std::fs;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use papertrader_node::log::{LogConfig, LogError, init};
use papertrader_node::{debug, info};

struct PanicsWhenPrinted;

impl fmt::Display for PanicsWhenPrinted {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("printed")
    }
}

#[test]
fn a_panic_anywhere_dumps_the_memory_to_the_file() {
    let previous_ran = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&previous_ran);
    panic::set_hook(Box::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("event.log");
    let config = LogConfig { file: Some(path.clone()), ..LogConfig::default() };
    let bad = LogConfig { level: "lots".to_owned(), ..config.clone() };
    assert!(matches!(init(&bad), Err(LogError::Level { .. })));
    let log = init(&config).unwrap();
    assert!(matches!(init(&config), Err(LogError::AlreadyInstalled)));
    let lines = || -> Vec<String> {
        fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect()
    };

    info!(user = "eve", "said\nhello");
    debug!("below the level");
    log::warn!(target: "some_library", "through the log crate");
    assert_eq!(lines().len(), 0, "memory is not full");

    let thread = std::thread::Builder::new().name("settlement".to_owned());
    thread.spawn(|| panic!("books {}", "do not balance")).unwrap().join().unwrap_err();
    let seen = lines();
    let [said, library, panicked] = seen.as_slice() else { panic!("{seen:?}") };
    assert!(said.contains(" INFO crates/node/tests/event_log.rs:"), "{said}");
    assert!(said.contains(" event_log::a_panic_anywhere_dumps_the_memory_to_the_file "), "{said}");
    assert!(said.ends_with(" said\\nhello user=eve"), "{said}");
    assert!(library.contains(" WARN ") && library.contains("event_log.rs:"), "{library}");
    assert!(library.ends_with(" event_log through the log crate"), "{library}");
    assert!(panicked.contains(" ERROR crates/node/tests/event_log.rs:"), "{panicked}");
    assert!(panicked.contains(" panic: books do not balance thread=settlement"), "{panicked}");
    assert_eq!(previous_ran.load(Ordering::SeqCst), 1);

    // A panic out of the middle of logging.
    std::thread::spawn(|| info!("{}", PanicsWhenPrinted)).join().unwrap_err();
    assert_eq!(lines().len(), 4);
    assert!(lines()[3].contains(" panic: printed "));

    info!("after it all");
    drop(log);
    assert!(lines()[4].ends_with(" after it all"));
}
