//! What a worker says of itself when it comes (`linkHello`), checked: it goes into the list that all
//! clients get, into the log and to the operator's terminal.
//!
//! Whether the worker may come at all is decided elsewhere. Whether what it says is true is not
//! checked: a worker may name an address at which nobody answers.
//!
//! Invariant: a [`Hello`] holds only short texts of visible ASCII characters (in a version, spaces
//! too), an address that a client can read, and a fingerprint in the one form that it is written in.

use std::net::Ipv6Addr;

use papertrader_core::ids::WorkerId;
use papertrader_protocol::Fingerprint;
use papertrader_protocol::data::is_region;
use papertrader_protocol::link::LinkHello;

/// Longest version, in bytes.
const MAX_VERSION: usize = 64;
/// Longest host of an address, in bytes: the longest name of the DNS, and some room.
const MAX_HOST: usize = 255;
/// Longest web address, in bytes.
const MAX_WEB: usize = 512;

/// What a worker says of itself. Texts are empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    version: String,
    address: String,
    web: String,
    fingerprint: String,
    region: String,
}

/// Why it is not taken, in words for the operators of both. None repeats what the worker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHello {
    /// It says that it is another worker.
    #[error("it names another UUID than the proven one")]
    OtherWorker,
    #[error("its version is not at most {MAX_VERSION} visible ASCII characters")]
    Version,
    #[error(
        "its address is not HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 address in \
         brackets: set `advertise` in its worker.toml"
    )]
    Address,
    #[error("its web address is not http(s)://HOST… in at most {MAX_WEB} visible ASCII characters")]
    Web,
    #[error("the fingerprint of its certificate is not a SHA-256 in hexadecimal digits")]
    Fingerprint,
    #[error(
        "its region is not 1 to 32 letters, digits, '-', '_' and '.': set `region` in its worker.toml"
    )]
    Region,
}

impl Hello {
    /// Checks what the worker says that has proved to be `proven`.
    pub(crate) fn check(said: LinkHello, proven: WorkerId) -> Result<Hello, BadHello> {
        let LinkHello { worker, version, address, web, fingerprint, region, clock: _ } = said;
        if worker != proven {
            return Err(BadHello::OtherWorker);
        }
        let is_printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if version.len() > MAX_VERSION || !version.bytes().all(is_printable) {
            return Err(BadHello::Version);
        }
        if !is_address(&address) {
            return Err(BadHello::Address);
        }
        if !web.is_empty() && !is_web(&web) {
            return Err(BadHello::Web);
        }
        let fingerprint = match fingerprint.as_str() {
            "" => fingerprint,
            text => text.parse::<Fingerprint>().map_err(|_| BadHello::Fingerprint)?.to_string(),
        };
        if !region.is_empty() && !is_region(&region) {
            return Err(BadHello::Region);
        }
        Ok(Hello { version, address, web, fingerprint, region })
    }

    /// Its software version.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Where clients reach it: `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its web address, or empty.
    pub(crate) fn web(&self) -> &str {
        &self.web
    }

    /// The fingerprint of the certificate that it shows to clients, or empty.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The region that it is in, or empty.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }
}

/// Whether a client can read it as an address.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = (1..=5).contains(&port.len())
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|it| it.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_of_name)
        }
    };
    is_port && is_host
}

fn is_web(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_there = rest.is_some_and(|rest| rest.starts_with(|c: char| c != '/'));
    is_there && text.len() <= MAX_WEB && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use papertrader_core::time::WallTime;

    use super::*;

    const ONE: WorkerId = WorkerId([1; 16]);

    fn said() -> LinkHello {
        LinkHello {
            worker: ONE,
            version: "0.1.0 (abc)".into(),
            address: "trade.example.org:2049".into(),
            web: "https://trade.example.org/".into(),
            fingerprint: "0A".repeat(32),
            region: "eu-west".into(),
            clock: WallTime(i64::MIN),
        }
    }

    fn problem(change: impl FnOnce(&mut LinkHello)) -> Option<BadHello> {
        let mut hello = said();
        change(&mut hello);
        Hello::check(hello, ONE).err()
    }

    #[test]
    fn what_is_in_order_is_taken_and_the_fingerprint_has_one_form() {
        let hello = Hello::check(said(), ONE).unwrap();
        assert_eq!(hello.fingerprint(), "0a".repeat(32));
        assert_eq!((hello.version(), hello.web()), ("0.1.0 (abc)", "https://trade.example.org/"));
        let longest = format!("{}:65535", "h".repeat(MAX_HOST));
        for good in ["127.0.0.1:1", "[::1]:2049", "my_host:02049", longest.as_str()] {
            assert_eq!(problem(|hello| hello.address = good.into()), None, "{good}");
        }
        for good in ["", "http://h", "http://[::1]:80/x?y=%20#z"] {
            assert_eq!(problem(|hello| hello.web = good.into()), None, "{good}");
        }
        assert_eq!(problem(|hello| hello.fingerprint.clear()), None);
        assert_eq!(problem(|hello| hello.region.clear()), None);
        assert_eq!(problem(|hello| hello.version.clear()), None);
    }

    #[test]
    fn what_would_play_with_a_list_or_a_terminal_is_not() {
        let other = problem(|hello| hello.worker = WorkerId([2; 16]));
        assert_eq!(other, Some(BadHello::OtherWorker));
        let long = "x".repeat(60_000);
        for bad in ["v1\x1b[2J", "v1\n", "v1\u{202e}", "vé", &long, &"v".repeat(MAX_VERSION + 1)] {
            assert_eq!(
                problem(|hello| hello.version = bad.into()),
                Some(BadHello::Version),
                "{bad}"
            );
        }
        let longest = format!("{}:1", "h".repeat(MAX_HOST + 1));
        for bad in [
            "",
            ":",
            "host",
            "host:",
            ":2049",
            "host:0",
            "host:65536",
            "host:+1",
            "host:000001",
            "ho st:1",
            "host:1 ",
            "host:1\n",
            "h\0st:1",
            "h\x1bost:1",
            "höst:1",
            "::1:2049",
            "[::1:2049",
            "[::g]:1",
            "user@host:1",
            "host/x:1",
            &long,
            &longest,
        ] {
            assert_eq!(
                problem(|hello| hello.address = bad.into()),
                Some(BadHello::Address),
                "{bad}"
            );
        }
        let longest = format!("http://{}", "h".repeat(MAX_WEB));
        for bad in [
            "host",
            "ftp://host",
            "javascript:alert(1)",
            "http://",
            "http:///x",
            "HTTP://host",
            "http://a b",
            "http://a\r\nb",
            "http://a\u{7f}",
            "http://é",
            &long,
            &longest,
        ] {
            assert_eq!(problem(|hello| hello.web = bad.into()), Some(BadHello::Web), "{bad}");
        }
        for bad in ["0a", " ", &"0a".repeat(33), &format!("{} ", "0a".repeat(31)), &long] {
            let found = problem(|hello| hello.fingerprint = bad.into());
            assert_eq!(found, Some(BadHello::Fingerprint), "{bad}");
        }
        for bad in ["eu west", "eu\x1b[2J", "é", &long] {
            assert_eq!(problem(|hello| hello.region = bad.into()), Some(BadHello::Region), "{bad}");
        }
    }

    #[test]
    fn no_refusal_repeats_what_was_said() {
        let words = problem(|hello| hello.address = "evil\x1b".into()).unwrap().to_string();
        assert!(!words.contains("evil") && words.contains("`advertise`"), "{words}");
    }
}
