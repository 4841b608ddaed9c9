//! Where a server is, and how it is spoken to: `HOST:PORT` means TLS, `tcp://HOST:PORT` plain TCP.
//!
//! Nothing is resolved here. Invariant: plain TCP is only ever written out; an address that does
//! not say `tcp://` is spoken to with TLS. The same server has one text, so that what is known of
//! it is found again: host names are in lower case, IPv6 addresses in their short form.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

const PLAIN: &str = "tcp://";
/// The longest host name of the DNS.
const MAX_HOST: usize = 253;

/// The address of a server. It is written and read as `HOST:PORT` (TLS) or `tcp://HOST:PORT`
/// (plain TCP); HOST is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without brackets.
    host: String,
    port: u16,
    plain: bool,
}

/// The text is not the address of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is HOST:PORT, or tcp://HOST:PORT where the operator chose plain TCP")]
pub struct BadAddress;

impl Address {
    /// `HOST:PORT`, however it is spoken to: the name under which certificates are known.
    pub fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// From `HOST:PORT` alone, as lists of workers have it.
    pub(crate) fn at(place: &str, plain: bool) -> Result<Address, BadAddress> {
        let (host, port) = place.rsplit_once(':').ok_or(BadAddress)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or(BadAddress)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(BadAddress)?;
                inner.parse::<Ipv6Addr>().map_err(|_| BadAddress)?.to_string()
            }
            None => {
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(is_name) {
                    return Err(BadAddress);
                }
                host.to_ascii_lowercase()
            }
        };
        Ok(Address { host, port, plain })
    }

    /// The name or IP address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// For the system's resolver.
    pub(crate) fn target(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        match text.strip_prefix(PLAIN) {
            Some(place) => Address::at(place, true),
            None => Address::at(text, false),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.plain { PLAIN } else { "" }, self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_what_is_not_said_to_be_plain() {
        for (text, place, plain) in [
            ("127.0.0.1:2049", "127.0.0.1:2049", false),
            ("tcp://127.0.0.1:2049", "127.0.0.1:2049", true),
            ("trade.example.org:1", "trade.example.org:1", false),
            ("[::1]:65535", "[::1]:65535", false),
            ("tcp://[2001:db8::1]:80", "[2001:db8::1]:80", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.place().as_str(), address.is_plain()), (place, plain));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn one_server_has_one_text() {
        let same = |a: &str, b: &str| assert_eq!(a.parse::<Address>(), b.parse::<Address>());
        same("Trade.Example.ORG:2049", "trade.example.org:2049");
        same("[0:0:0:0:0:0:0:1]:2049", "[::1]:2049");
        same("host:02049", "host:2049");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}:1", "a".repeat(254));
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1x",
            "::1:2049",
            "[::1]",
            "[::1:2049",
            "[host]:1",
            "a b:1",
            "tls://host:1",
            "tcp://tcp://host:1",
            "TCP://host:1",
            "user@host:1",
            "höst:1",
            "host/x:1",
            &long,
        ] {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }
}
