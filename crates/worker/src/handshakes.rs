//! The handshakes of TLS, on a thread of their own: one takes the processor for longer than many
//! answers, and nobody who is being served waits for it.
//!
//! Invariant: a client has its place from the moment it was accepted, and one deadline for the
//! whole handshake, however its bytes come.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use papertrader_node::debug;
use papertrader_node::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clients::{Arrival, Socket, TlsStream};
use crate::courtesy::Courtesy;
use crate::driver::Shared;
use crate::records::Followed;

/// What TLS may hold of what is written: one record.
pub(crate) const TLS_BUFFER: usize = 16 * 1024;

/// Makes the handshakes with the clients that arrive, and hands them to the client `threads` in
/// turn; until `stop`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut arrivals: mpsc::Receiver<Arrival>,
    threads: Vec<mpsc::Sender<Arrival>>,
    mut stop: Shutdown,
) {
    let mut tasks = JoinSet::new();
    let threads = Rc::new(threads);
    let (turn, courtesy) = (Rc::new(Cell::new(0)), Rc::new(Courtesy::default()));
    loop {
        tokio::select! {
            () = stop.wait() => return,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            Some(arrival) = arrivals.recv() => {
                let shared = Arc::clone(&shared);
                let (threads, turn) = (Rc::clone(&threads), Rc::clone(&turn));
                let courtesy = Rc::clone(&courtesy);
                tasks.spawn_local(async move {
                    if let Some(arrival) = shake_hands(&shared, &courtesy, arrival).await {
                        // Whose turn it is, is known only now: those who never finish would
                        // else leave all others to one thread.
                        turn.set((turn.get() + 1) % threads.len().max(1));
                        if let Some(thread) = threads.get(turn.get()) {
                            // An error means that the thread has ended; so will this worker.
                            let _ = thread.send(arrival).await;
                        }
                    }
                });
            }
        }
    }
}

/// One handshake; `None` if it fails or takes too long.
async fn shake_hands(shared: &Shared, courtesy: &Courtesy, arrival: Arrival) -> Option<Arrival> {
    let certificate = shared.config.tls.as_ref()?;
    let Arrival { socket, peer, seat } = arrival;
    let Socket::Plain(socket) = socket else { return None };
    let made = async {
        let mut socket = Followed::new(socket);
        socket.join()?;
        let mut accept = pin!(certificate.accept(socket));
        // Whoever waits for the processor waits for one step, and not for all that are ready. The
        // dear one comes before the client's last word, which may never come.
        let step = poll_fn(|context| {
            let polled = accept.as_mut().poll(context);
            courtesy.offer();
            polled
        });
        let mut stream: TlsStream = step.await?;
        let (socket, tls) = stream.get_mut();
        socket.leave()?;
        tls.set_buffer_limit(Some(TLS_BUFFER));
        Ok::<_, std::io::Error>(stream)
    };
    match timeout(shared.config.handshake_timeout, made).await {
        Ok(Ok(stream)) => Some(Arrival { socket: Socket::Tls(Box::new(stream)), peer, seat }),
        Ok(Err(error)) => {
            debug!(%peer, %error, "a handshake failed");
            None
        }
        Err(_) => {
            debug!(%peer, "a handshake took too long");
            shared.counters.cut.add_one();
            None
        }
    }
}
