//! The event log (specification 3.1.4, 2.4.4): message, date, time, file, function, line.
//!
//! Events go through `tracing`, so that libraries' events are in the log too. Use the macros of
//! this crate ([`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info),
//! [`debug!`](crate::debug)): they add the function's name.

/// The path of the function in which it is used.
#[macro_export]
macro_rules! function {
    () => {{
        fn here() {}
        $crate::log::function_name(::std::any::type_name_of_val(&here))
    }};
}

/// Records an event at level ERROR. The syntax is that of `tracing::error!`.
#[macro_export]
macro_rules! error {
    ($($rest:tt)*) => { ::tracing::error!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level WARN. The syntax is that of `tracing::warn!`.
#[macro_export]
macro_rules! warn {
    ($($rest:tt)*) => { ::tracing::warn!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level INFO. The syntax is that of `tracing::info!`.
#[macro_export]
macro_rules! info {
    ($($rest:tt)*) => { ::tracing::info!(function = $crate::function!(), $($rest)*) };
}

/// Records an event at level DEBUG. The syntax is that of `tracing::debug!`.
#[macro_export]
macro_rules! debug {
    ($($rest:tt)*) => { ::tracing::debug!(function = $crate::function!(), $($rest)*) };
}

/// Takes the name of a function out of the type name of a function inside it.
#[doc(hidden)]
pub fn function_name(inner: &'static str) -> &'static str {
    let mut name = inner.strip_suffix("::here").unwrap_or(inner);
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    name
}
