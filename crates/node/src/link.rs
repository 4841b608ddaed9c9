//! The link between a worker and the master (specification 4.3.1): how it is made and who is let
//! in. The seam at which the link gets its encryption and its proof of identity: what is above it
//! sees only a [`LinkStream`] and an answer to "who is it".
//!
//! As it stands, a worker is known by its UUID and by the address it comes from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use papertrader_core::ids::WorkerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Any stream that a link can run on.
pub trait LinkIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> LinkIo for T {}

/// An open link, whatever protects it.
pub type LinkStream = Box<dyn LinkIo>;

/// The worker's side: opens a link to the master.
pub async fn connect(address: impl ToSocketAddrs) -> io::Result<LinkStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// The master's side: takes a connection on the master's port.
pub async fn accept(stream: TcpStream) -> io::Result<LinkStream> {
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// A worker that the master knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its UUID.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Where it may connect from.
    pub allowed: Vec<Network>,
}

/// Why a worker is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its UUID is not registered.
    #[error("worker UUID {0} is not registered")]
    UnknownWorker(WorkerId),
    /// It comes from an address that is not on its list.
    #[error("worker {0} is not allowed to connect from {1}")]
    ForeignAddress(WorkerId, IpAddr),
}

/// Decides whether a worker that says it is `id` may use the link.
pub fn authenticate(
    registry: &[Registered],
    id: WorkerId,
    from: SocketAddr,
) -> Result<&Registered, Denied> {
    let worker = registry.iter().find(|w| w.id == id).ok_or(Denied::UnknownWorker(id))?;
    let address = from.ip().to_canonical();
    if worker.allowed.iter().any(|network| network.contains(address)) {
        Ok(worker)
    } else {
        Err(Denied::ForeignAddress(id, address))
    }
}

/// A network such as `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address or a network such as 10.0.0.0/8")]
pub struct NotANetwork(String);

impl std::str::FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let bad = || NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest { Err(bad()) } else { Ok(Network { address, prefix }) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_prefix(&a.octets(), &b.octets(), self.prefix),
            (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(&a.octets(), &b.octets(), self.prefix),
            _ => false,
        }
    }
}

fn same_prefix(a: &[u8], b: &[u8], prefix: u8) -> bool {
    let whole = usize::from(prefix / 8);
    let rest = prefix % 8;
    let mask = if rest == 0 { 0 } else { 0xffu8 << (8 - rest) };
    a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) & mask == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let inside = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(inside("127.0.0.1", "127.0.0.1"));
        assert!(!inside("127.0.0.1", "127.0.0.2"));
        assert!(inside("10.0.0.0/9", "10.127.255.255"));
        assert!(!inside("10.0.0.0/9", "10.128.0.0"));
        assert!(inside("0.0.0.0/0", "8.8.8.8"));
        assert!(!inside("0.0.0.0/0", "::1"));
        assert!(inside("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!inside("2001:db8::/33", "2001:db8:8000::1"));
        for bad in ["", "ten", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_registered_workers_from_their_addresses() {
        let id = WorkerId([1; 16]);
        let registry =
            [Registered { id, name: "one".into(), allowed: vec!["127.0.0.1".parse().unwrap()] }];
        let from: SocketAddr = "127.0.0.1:5".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:5".parse().unwrap();
        let foreign: SocketAddr = "127.0.0.2:5".parse().unwrap();
        assert!(authenticate(&registry, id, from).is_ok());
        assert!(authenticate(&registry, id, mapped).is_ok());
        let unknown = WorkerId([2; 16]);
        assert_eq!(authenticate(&registry, unknown, from), Err(Denied::UnknownWorker(unknown)));
        assert_eq!(
            authenticate(&registry, id, foreign),
            Err(Denied::ForeignAddress(id, foreign.ip()))
        );
    }
}
