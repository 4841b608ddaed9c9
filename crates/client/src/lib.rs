//! The client SDK: connects to a worker, switches the connection's state by itself, resumes its
//! session, and moves to the next worker of the list when one dies.
//!
//! It holds no account data and caches nothing: every answer is the server's. It starts no
//! runtime of its own and prints nothing.
//!
//! Invariants: frames leave in the order in which they were judged to be in the right state; an
//! order is sent again only under the same client order ID, so it happens once at most; a session
//! ID is sent only to servers of the deployment that gave it; nothing but a TLS handshake is sent to
//! a server whose certificate is not taken, and plain TCP is spoken only to `tcp://` addresses and
//! to workers of a list that came over plain TCP.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use papertrader_client::{Client, Options, Password, new_order_id};
//! use papertrader_core::order::Side;
//!
//! let client = Client::connect(&["127.0.0.1:2049".to_owned()], Options::default()).await?;
//! client.login(&"alice".parse()?, &Password::new("secret-pw"), true).await?;
//! let id = new_order_id();
//! let mut order = client.order(Side::Buy, "AAPL".parse()?, "10".parse()?, id).await?;
//! let fill = order.outcome().await?;
//! println!("bought {} at {}", fill.quantity, fill.price);
//! # Ok(())
//! # }
//! ```

mod address;
mod choice;
mod client;
mod connection;
mod error;
mod failover;
mod options;
mod order;
mod password;
mod streams;
mod tls;
mod trust;

pub use address::{Address, BadAddress};
pub use client::Client;
pub use error::{ClientError, ProtocolError, Tried, Undecided};
pub use options::Options;
pub use order::{PlacedOrder, new_order_id};
pub use papertrader_protocol::Fingerprint;
pub use papertrader_protocol::transfer::Progress;
pub use password::{PASSWORD_ROUNDS, Password};
pub use streams::{OrderStream, PriceStream};
pub use trust::{How, Learnt, Roots, Trust};
