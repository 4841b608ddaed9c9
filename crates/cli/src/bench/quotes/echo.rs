//! The bare server that quotes are compared with: it reads questions of one size and sends back the
//! first eight bytes of each, filled up to the size of an answer; one thread, one task a connection,
//! all answers to one read in one write. What an answer costs there is the system's own cost.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::talk::Sizes;
use crate::bench::BenchError;

/// What one read may bring.
const READ: usize = 16 * 1024;

/// Starts it, on a thread that ends with the program.
pub(super) fn start(sizes: Sizes) -> Result<SocketAddr, BenchError> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        LocalSet::new().block_on(&runtime, async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                // One that fails is seen by its client.
                tokio::task::spawn_local(async move { serve(stream, sizes).await });
            }
        });
    })?;
    Ok(address)
}

async fn serve(mut stream: TcpStream, sizes: Sizes) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut output, mut have) = (vec![0; READ], Vec::new(), 0);
    loop {
        match stream.read(&mut input[have..]).await? {
            0 => return Ok(()),
            count => have += count,
        }
        output.clear();
        let whole = have - have % sizes.question;
        for question in input[..whole].chunks_exact(sizes.question) {
            let end = output.len() + sizes.answer;
            output.extend_from_slice(&question[..8]);
            output.resize(end, 0);
        }
        input.copy_within(whole..have, 0);
        have -= whole;
        stream.write_all(&output).await?;
    }
}
