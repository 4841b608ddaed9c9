//! Placing an order and waiting for its outcome, over lost connections and dead workers.
//!
//! The order is sent under one client order ID until a server says what became of it. That is
//! safe: the same ID and content are the same order, whichever worker it comes through.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use papertrader_core::money::Quantity;
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::Side;
use papertrader_protocol::Request;
use papertrader_protocol::request::OrderArgs;
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return};

use crate::client::{Again, Client, First};
use crate::connection::{Connection, Event};
use crate::error::{ClientError, ProtocolError};
use crate::failover::{Answer, next};

/// A new client order ID: a UUID of version 7.
pub fn new_order_id() -> ClientOrderId {
    // A UUID is 36 printable ASCII characters.
    Uuid::now_v7().to_string().parse().expect("a UUID is a client order ID")
}

/// An order that was accepted. Dropping it changes nothing about the order.
#[derive(Debug)]
pub struct PlacedOrder {
    client: Client,
    request: Request,
    side: Side,
    client_order_id: ClientOrderId,
    queued: Option<QueuedOrder>,
    progress: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The outcome will come here. The connection is held open for it.
    Waiting(UnboundedReceiver<Event>, Arc<Connection>),
    /// The connection was lost: ask again.
    Lost,
    /// The outcome.
    Done(Result<FilledOrder, ClientError>),
}

impl Client {
    /// Places an order; returns when it is durable (queued), or done already because this ID was
    /// used before. If the connection is lost or the server is busy it is sent again with the
    /// same ID, for [`crate::Options::patience`].
    pub async fn order(
        &self,
        side: Side,
        symbol: Symbol,
        quantity: Quantity,
        client_order_id: ClientOrderId,
    ) -> Result<PlacedOrder, ClientError> {
        let args = OrderArgs { symbol, quantity, client_order_id: client_order_id.clone() };
        let request = match side {
            Side::Buy => Request::PurchaseAsset(args),
            Side::Sell => Request::SellAsset(args),
        };
        let mut order = PlacedOrder {
            client: self.clone(),
            request,
            side,
            client_order_id,
            queued: None,
            progress: Stage::Lost,
        };
        order.place().await?;
        Ok(order)
    }
}

impl PlacedOrder {
    /// The order as it was queued, or `None` if it was done before this asked.
    pub fn queued(&self) -> Option<&QueuedOrder> {
        self.queued.as_ref()
    }

    /// The client order ID.
    pub fn client_order_id(&self) -> &ClientOrderId {
        &self.client_order_id
    }

    /// Buy or sell.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Waits until the order is filled, however long that takes, or refused at the fill,
    /// cancelled or expired ([`ClientError::Refused`]). Dropping the future loses nothing: call it
    /// again. After an error about a connection it may be called again too.
    pub async fn outcome(&mut self) -> Result<FilledOrder, ClientError> {
        loop {
            match &mut self.progress {
                Stage::Done(outcome) => return outcome.clone(),
                Stage::Lost => self.place().await?,
                Stage::Waiting(events, connection) => {
                    let answer = next(events, |_| {}, None).await;
                    let server = connection.server().to_owned();
                    self.progress = match answer {
                        Answer::Lost(_) => Stage::Lost,
                        Answer::Return(Return::Failed(_, failure)) => {
                            Stage::Done(Err(ClientError::Refused(failure)))
                        }
                        Answer::Broken(problem) => {
                            Stage::Done(Err(ClientError::Protocol { server, problem }))
                        }
                        answer => Stage::Done(self.filled(answer)),
                    };
                }
            }
        }
    }

    /// Sends the order and takes its first answer.
    async fn place(&mut self) -> Result<(), ClientError> {
        let mut sent = self.queued.is_some();
        let again = Again::Unsettled;
        let First { answer, events, connection } =
            self.client.first_noting(&self.request, again, |_| {}, &mut sent).await?;
        self.progress = match answer {
            Answer::Return(Return::OrderQueued(queued)) => {
                if queued.client_order_id != self.client_order_id || queued.side != self.side {
                    return Err(self.client.unexpected(&self.request));
                }
                self.queued = Some(queued);
                Stage::Waiting(events, connection)
            }
            answer => Stage::Done(Ok(self.filled(answer)?)),
        };
        Ok(())
    }

    fn filled(&self, answer: Answer) -> Result<FilledOrder, ClientError> {
        match answer {
            Answer::Return(Return::Filled(side, fill))
                if side == self.side && fill.client_order_id == self.client_order_id =>
            {
                Ok(fill)
            }
            _ => Err(ClientError::Protocol {
                server: self.client.server(),
                problem: ProtocolError::unexpected(self.request.encode().0),
            }),
        }
    }
}
