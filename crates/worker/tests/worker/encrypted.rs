//! Clients over TLS, and those who only say that they are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use papertrader_node::tls::{self, Certificate};
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::{Fingerprint, Reason, SessionId};
use papertrader_worker::Config;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::master::Link;
use crate::{Scene, session, soon};

fn certificate() -> Certificate {
    let directory = tempfile::tempdir().unwrap();
    Certificate::self_made(directory.path(), &[tls::CLIENT_PROTOCOL]).unwrap()
}

/// A worker that speaks TLS, its link, and the fingerprint that it says.
async fn ready(change: impl FnOnce(&mut Config)) -> (Scene, Link, Fingerprint) {
    let certificate = certificate();
    let fingerprint = certificate.fingerprint();
    let scene = Scene::unlinked(|config| {
        config.tls = Some(certificate);
        change(config);
    })
    .await;
    let (mut link, hello) = scene.master.accept().await;
    assert_eq!(hello.fingerprint, fingerprint.to_string());
    link.welcome("deployment-1", 0).await;
    link.push_all(1).await;
    assert!(soon(scene.worker.ready()).await);
    (scene, link, fingerprint)
}

async fn log_in(client: &mut Client, link: &mut Link) {
    let hash = "ab".repeat(32);
    let request = client.send(Instruction::Login, &["alice", &hash, "false"]).await;
    link.grant(session(1), crate::NEVER).await;
    client.expect(request, Instruction::SessionId).await;
    client.data(request, Instruction::WorkerList).await;
    client.session = session(1);
}

#[tokio::test]
async fn a_client_over_tls_is_served_to_the_end() {
    let (scene, mut link, fingerprint) = ready(|_| {}).await;
    let mut client = Client::connect_tls(scene.worker.address(), fingerprint).await;
    log_in(&mut client, &mut link).await;
    client.switch(State::DataTransfer).await;
    // One write with many requests; every answer comes, the last one too.
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..1_000 {
        let (request, frame) = client.encode(Instruction::GetAssetValueCurrent, &["AAPL"]);
        bytes.extend(frame);
        requests.push(request);
    }
    client.write(&bytes).await;
    for request in requests {
        client.data(request, Instruction::Data).await;
    }
    scene.trigger.pull();
    client.expect_refusal(0, Instruction::Goodbye, Reason::ShuttingDown).await;
    // Its end of TLS is closed as well: nothing was cut off.
    assert_eq!(client.read_to_end().await.unwrap(), 0);
    scene.end().await;
}

#[tokio::test]
async fn a_long_answer_arrives_whole_although_it_is_read_late() {
    let (scene, mut link, fingerprint) =
        ready(|config| config.ping_interval = Duration::from_millis(10)).await;
    let mut client = Client::connect_tls(scene.worker.address(), fingerprint).await;
    log_in(&mut client, &mut link).await;
    client.switch(State::DataTransfer).await;
    let request = client.send(Instruction::GetUserTransactionHistory, &["alice"]).await;
    let asked = link.expect(Instruction::GetUserTransactionHistory).await;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 7) as u8).collect();
    link.data(asked.header.request, &sent, false).await;
    // All that the buffers between hold is in them, and the rest waits.
    link.status(|status| status.outgoing_bytes >= sent.len() as u64).await;
    assert!(client.data(request, Instruction::Data).await == sent);
    link.status(|status| status.outgoing_bytes == 0).await;
    scene.end().await;
}

/// The end of an answer may be all that TLS holds back while the socket is full: among these sizes
/// are some at which it is.
#[tokio::test]
async fn the_end_of_an_answer_is_not_held_back() {
    let (scene, mut link, fingerprint) = ready(|config| {
        config.send_buffer = 16 * 1024;
        config.ping_interval = Duration::from_millis(10);
    })
    .await;
    let mut first = Client::connect_tls(scene.worker.address(), fingerprint).await;
    log_in(&mut first, &mut link).await;
    for size in (1..=25).map(|n| n * 16_000) {
        let mut client = Client::connect_tls(scene.worker.address(), fingerprint).await;
        client.session = session(1);
        client.switch(State::DataTransfer).await;
        let request = client.send(Instruction::GetUserTransactionHistory, &["alice"]).await;
        let asked = link.expect(Instruction::GetUserTransactionHistory).await;
        link.data(asked.header.request, &vec![7; size], false).await;
        // The worker has gone on since it took the answer.
        link.aside(Instruction::WorkerStatus).await;
        link.aside(Instruction::WorkerStatus).await;
        assert_eq!(client.data(request, Instruction::Data).await.len(), size);
    }
    scene.end().await;
}

#[tokio::test]
async fn who_speaks_no_tls_is_closed() {
    let (scene, _link, _) = ready(|_| {}).await;
    let mut client = scene.client().await;
    let (_, bytes) = client.encode(Instruction::Ping, &["x"]);
    client.write(&bytes).await;
    // What comes back is an alert of TLS at most.
    let mut said = Vec::new();
    let stream = TcpStream::connect(scene.worker.address()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(&bytes).await.unwrap();
    let _ = soon(reader.read_to_end(&mut said)).await;
    assert!(said.is_empty() || said[0] == 21, "{said:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off() {
    let (scene, mut link, _) = ready(|config| {
        config.handshake_timeout = Duration::from_millis(50);
        config.ping_interval = Duration::from_millis(10);
    })
    .await;
    let mut silent = TcpStream::connect(scene.worker.address()).await.unwrap();
    let mut slow = TcpStream::connect(scene.worker.address()).await.unwrap();
    // The start of a record of 512 bytes.
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut said = Vec::new();
        let _ = soon(stream.read_to_end(&mut said)).await;
        assert!(said.is_empty());
    }
    link.status(|status| status.cut_connections == 2 && status.clients == 0).await;
    scene.end().await;
}

#[tokio::test]
async fn half_a_message_inside_tls_ends_the_connection() {
    let (scene, _link, fingerprint) =
        ready(|config| config.frame_timeout = Duration::from_millis(50)).await;
    let mut client = Client::connect_tls(scene.worker.address(), fingerprint).await;
    let (_, bytes) = client.encode(Instruction::Ping, &["x"]);
    client.write(&bytes[..bytes.len() - 1]).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn half_a_record_ends_the_connection_even_with_a_session() {
    let (scene, mut link, fingerprint) = ready(|config| {
        config.frame_timeout = Duration::from_millis(50);
        config.ping_interval = Duration::from_millis(10);
    })
    .await;
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let stream = TcpStream::connect(scene.worker.address()).await.unwrap();
    let address = stream.local_addr().unwrap();
    let stream = Cut { stream, left: Arc::clone(&left) };
    let stream = soon(tls::connect(stream, fingerprint, tls::CLIENT_PROTOCOL)).await.unwrap();
    let mut client = Client::on(address, stream);
    log_in(&mut client, &mut link).await;
    // Header and a part: TLS gives the worker nothing of it.
    left.store(30, Ordering::Relaxed);
    client.send(Instruction::Ping, &["x"]).await;
    assert!(client.read().await.is_none());
    link.status(|status| status.cut_connections == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn more_than_enough_clients_are_closed_before_a_handshake() {
    let (scene, mut link, fingerprint) = ready(|config| {
        config.max_connections_per_address = 1;
        config.ping_interval = Duration::from_millis(10);
    })
    .await;
    let address: SocketAddr = scene.worker.address();
    let mut first = Client::connect_tls(address, fingerprint).await;
    let mut second = TcpStream::connect(address).await.unwrap();
    let mut said = Vec::new();
    let _ = soon(second.read_to_end(&mut said)).await;
    assert!(said.is_empty());
    link.status(|status| status.refused_connections == 1 && status.clients == 1).await;
    assert_eq!(first.session, SessionId::NONE);
    let request = first.send(Instruction::Ping, &["x"]).await;
    first.expect(request, Instruction::Pong).await;
    scene.end().await;
}

/// Lets so many more bytes out; then it only says that it does.
struct Cut {
    stream: TcpStream,
    left: Arc<AtomicUsize>,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Ok(bytes.len()));
        }
        let part = &bytes[..bytes.len().min(left)];
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, part))?;
        self.left.store(left - count, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
