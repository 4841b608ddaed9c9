//! The limits in force and the places of the master's port, for people.
//!
//! Limits have their names of `master.toml`, so that the operator finds what to change.

use papertrader_master::admin::message::{BackoffLimit, LimitsInForce, RateLimit, Status};
use papertrader_node::config::HumanDuration;

use super::text::Fields;

/// How many places of the port are taken.
pub(super) fn port_text(status: &Status) -> String {
    let (taken, places) = (&status.port, &status.limits.port);
    let turned_away = taken.expected_turned_away.saturating_add(taken.strangers_turned_away);
    format!(
        "{} of {} places of workers taken, {} of {} of strangers, {turned_away} turned away",
        taken.expected, places.expected, taken.strangers, places.strangers,
    )
}

/// All limits, one a line.
pub(super) fn text(limits: &LimitsInForce) -> String {
    let mut fields = Fields::default();
    fields.put("login_name_and_address", backoff(&limits.login_name_and_address));
    fields.put("login_address", backoff(&limits.login_address));
    fields.put("login_name", backoff(&limits.login_name));
    fields.put("login_worker", rate(&limits.login_worker));
    fields.put("register_address", rate(&limits.register_address));
    fields.put("register_worker", rate(&limits.register_worker));
    fields.put("orders_account", rate(&limits.orders_account));
    fields.put("password_queue", limits.password_queue);
    fields.put("command_queue", limits.command_queue);
    fields.put("sessions_per_account", limits.sessions_per_account);
    let port = &limits.port;
    let of_one = |number| format!("{number} from one address");
    fields
        .put("port.expected", format!("{}, {}", port.expected, of_one(port.expected_per_address)));
    let strangers = of_one(port.strangers_per_address);
    fields.put("port.strangers", format!("{}, {strangers}", port.strangers));
    fields.put("port.silence", time(port.silence_ms));
    fields.put("port.stay", time(port.stay_ms));
    format!("limits in force\n{}", fields.text())
}

fn backoff(limit: &BackoffLimit) -> String {
    if limit.forget_ms == 0 {
        return "no limit".into();
    }
    let [first, longest, forget] = [limit.first_ms, limit.longest_ms, limit.forget_ms].map(time);
    format!("{} free, then {first} up to {longest}, one forgotten after {forget}", limit.free)
}

fn rate(limit: &RateLimit) -> String {
    match (limit.every_ms, limit.burst) {
        (0, _) => "no limit".into(),
        (_, 0) => "none allowed".into(),
        (every, burst) => format!("{burst} at once, then one every {}", time(every)),
    }
}

fn time(millis: u64) -> String {
    HumanDuration::from_millis(millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_switched_off_is_said_to_be() {
        let rate_of = |burst, every_ms| rate(&RateLimit { burst, every_ms });
        assert_eq!(rate_of(5, 0), "no limit");
        assert_eq!(rate_of(0, 5), "none allowed");
        assert_eq!(rate_of(5, 60_000), "5 at once, then one every 1m");
        let off = BackoffLimit { free: 0, first_ms: 0, longest_ms: 0, forget_ms: 0 };
        assert_eq!(backoff(&off), "no limit");
    }
}
