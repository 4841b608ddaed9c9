//! Those who do their worst: connections that send a byte a second, and connections that ask and
//! never read.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use papertrader_protocol::SessionId;
use papertrader_protocol::instruction::{Instruction, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval_at, sleep};

use crate::measure::{Stream, connect, connect_plain, request};
use crate::{Arguments, Problem, session_id};

/// Between bytes, and before whoever was cut off comes again.
const SECOND: Duration = Duration::from_secs(1);
/// Over how long the first connections are spread: as long as the longest that a server bears
/// with one, so that those who come again come evenly.
const START: Duration = Duration::from_secs(30);

/// What the attackers have counted since all were connected for the first time.
pub(crate) struct Held {
    pub(crate) wanted: usize,
    pub(crate) fewest: usize,
    pub(crate) most: usize,
    /// Connections made.
    pub(crate) made: usize,
    /// Connections that the server ended.
    pub(crate) cut: usize,
    /// Connections that could not be made.
    pub(crate) refused: usize,
}

impl Held {
    /// From a line of [`Held::line`].
    pub(crate) fn parse(line: &str) -> Option<Held> {
        let numbers: Option<Vec<usize>> =
            line.split(' ').map(|number| number.parse().ok()).collect();
        let [wanted, fewest, most, made, cut, refused] = numbers?.try_into().ok()?;
        Some(Held { wanted, fewest, most, made, cut, refused })
    }

    fn line(&self) -> String {
        let Held { wanted, fewest, most, made, cut, refused } = self;
        format!("{wanted} {fewest} {most} {made} {cut} {refused}")
    }

    pub(crate) fn json(&self) -> String {
        let Held { wanted, fewest, most, made, cut, refused } = self;
        format!(
            "{{\"wanted\":{wanted},\"fewest\":{fewest},\"most\":{most},\"made\":{made},\
             \"cut\":{cut},\"refused\":{refused}}}"
        )
    }
}

#[derive(Default)]
struct Counts {
    connected: Cell<usize>,
    made: Cell<usize>,
    cut: Cell<usize>,
    refused: Cell<usize>,
}

fn add(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

/// What one of them does.
#[derive(Clone, Copy)]
enum Way {
    /// A byte a second, bare.
    SlowBare,
    /// A byte a second inside TLS.
    Slow,
    /// Requests without a session, unread.
    Deaf,
    /// Requests with the normal client's session, unread.
    DeafWithSession,
}

struct Attacker {
    way: Way,
    from: SocketAddr,
    server: SocketAddr,
    fingerprint: Option<papertrader_protocol::Fingerprint>,
    session: SessionId,
}

/// The process of the attackers: says `held` when all are connected, and what it has counted when
/// its input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Problem> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let session = session_id(line.trim()).ok_or("no session was given")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, all(arguments, session))
}

async fn all(arguments: &Arguments, session: SessionId) -> Result<(), Problem> {
    let counts = Rc::new(Counts::default());
    let wanted = arguments.slow + arguments.deaf;
    let mut tasks = JoinSet::new();
    let slow = (0..arguments.slow).map(|n| (n, arguments.slow, [Way::SlowBare, Way::Slow][n % 2]));
    let deaf =
        (0..arguments.deaf).map(|n| (n, arguments.deaf, [Way::Deaf, Way::DeafWithSession][n % 2]));
    for (n, all, way) in slow.chain(deaf) {
        // 127.1.0.1, 127.1.0.2, …
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n as u32);
        let attacker = Attacker {
            way,
            from: SocketAddr::from((address, 0)),
            server: arguments.server,
            fingerprint: arguments.fingerprint,
            session,
        };
        // Spread evenly, so that they do not come in step.
        let delay = START.mul_f64(n as f64 / all as f64);
        let counts = Rc::clone(&counts);
        tasks.spawn_local(async move {
            sleep(delay).await;
            let mut attack = pin!(attacker.go_on(&counts));
            // They stand for other machines: the processor is the server's whenever it wants it.
            // The system lets even the lowest priority have a whole slice of milliseconds first.
            poll_fn(|context| {
                let polled = attack.as_mut().poll(context);
                std::thread::yield_now();
                polled
            })
            .await;
        });
    }
    // A second for the last ones.
    sleep(START + SECOND).await;
    let before = (counts.made.get(), counts.cut.get(), counts.refused.get());
    println!("held");
    let (mut fewest, mut most) = (usize::MAX, 0);
    let (ended, mut end) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ended = ended;
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    });
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = &mut end => break,
            _ = look.tick() => {
                fewest = fewest.min(counts.connected.get());
                most = most.max(counts.connected.get());
            }
        }
    }
    let (made, cut, refused) = before;
    let held = Held {
        wanted,
        fewest,
        most,
        made: counts.made.get() - made,
        cut: counts.cut.get() - cut,
        refused: counts.refused.get() - refused,
    };
    println!("{}", held.line());
    Ok(())
}

impl Attacker {
    async fn go_on(&self, counts: &Counts) {
        loop {
            match self.open().await {
                Ok(stream) => {
                    add(&counts.made);
                    add(&counts.connected);
                    self.attack(stream).await;
                    counts.connected.set(counts.connected.get() - 1);
                    add(&counts.cut);
                }
                Err(_) => add(&counts.refused),
            }
            sleep(SECOND).await;
        }
    }

    async fn open(&self) -> std::io::Result<Box<dyn Stream>> {
        match self.way {
            Way::SlowBare => Ok(Box::new(connect_plain(self.from, self.server).await?)),
            _ => connect(self.from, self.server, self.fingerprint).await,
        }
    }

    /// Returns when the server has ended the connection.
    async fn attack(&self, stream: Box<dyn Stream>) {
        match self.way {
            // The start of a record of TLS.
            Way::SlowBare => drip(stream, &[22, 3, 1, 2, 0]).await,
            Way::Slow => {
                let ping = request(Instruction::Ping, &["x"], 1, SessionId::NONE);
                drip(stream, &ping[..ping.len() - 1]).await;
            }
            Way::Deaf => {
                let ping = request(Instruction::Ping, &[&"x".repeat(1_000)], 1, SessionId::NONE);
                pour(stream, &[], &ping).await;
            }
            Way::DeafWithSession => {
                let state = State::DataTransfer.name();
                let first = request(Instruction::SwitchState, &[state], 1, self.session);
                let list = request(Instruction::GetAssetList, &[], 2, self.session);
                pour(stream, &first, &list).await;
            }
        }
    }
}

/// A byte a second, and after the last of `bytes` zeros.
async fn drip(mut stream: Box<dyn Stream>, bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut turn = interval_at(Instant::now() + SECOND, SECOND);
    let mut said = [0; 256];
    loop {
        tokio::select! {
            read = stream.read(&mut said) => if !matches!(read, Ok(count) if count > 0) { return },
            _ = turn.tick() => {
                let sent = async {
                    stream.write_all(&[bytes.next().unwrap_or(0)]).await?;
                    stream.flush().await
                };
                if sent.await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Requests for as long as they are taken; nothing is read.
async fn pour(mut stream: Box<dyn Stream>, first: &[u8], request: &[u8]) {
    let many = request.repeat(16_384_usize.div_ceil(request.len()));
    let poured = async {
        stream.write_all(first).await?;
        loop {
            stream.write_all(&many).await?;
        }
    };
    // It ends by an error only.
    let _: std::io::Result<std::convert::Infallible> = poured.await;
}
