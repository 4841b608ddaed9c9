//! What somebody sees who listens on the way between client, worker and master: nothing of what is
//! said. The same search over a worker that is explicitly plain finds it all.
//!
//! A proxy in between records both links, wherever this runs; `tcpdump` records the loopback, where
//! it may.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use papertrader_client::Password;

use crate::cli::{PASSWORD, User};
use crate::place::{Deployment, Place, edit, serve};
use crate::process::{address, free_address, signal};

const USER: &str = "captured-alice";
/// Long enough to be no chance find among encrypted bytes.
const SYMBOL: &str = "SYN0002";

/// Something that nobody on the way may see.
struct Secret {
    what: &'static str,
    bytes: Vec<u8>,
    /// Whether it stands on the wire when nothing is encrypted.
    is_said: bool,
}

fn contains(heard: &[u8], bytes: &[u8]) -> bool {
    heard.windows(bytes.len()).any(|window| window == bytes)
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[track_caller]
fn hides_all(heard: &[u8], secrets: &[Secret]) {
    for secret in secrets {
        assert!(!contains(heard, &secret.bytes), "{} can be seen on the way", secret.what);
    }
}

#[track_caller]
fn shows_all(heard: &[u8], secrets: &[Secret]) {
    for secret in secrets {
        let (what, is_there) = (secret.what, contains(heard, &secret.bytes));
        assert_eq!(is_there, secret.is_said, "{what}: the search finds what is there");
    }
}

/// A master that is not started yet, with symbols that are long enough.
fn place() -> Place {
    let place = Place::new();
    place.edit_master("#source = \"replay\"", "source = \"synthetic\"");
    place.edit_master("#instruments = 100", "instruments = 3");
    place
}

/// Starts the master and one worker, whose configuration is changed by `change`.
fn start(place: Place, change: impl FnOnce(&std::path::Path)) -> Deployment {
    let mut all = place.start(&[]);
    let file = all.place.worker("one", &[]);
    change(&file);
    let mut worker = serve("worker", &file);
    all.addresses.push(address(&worker.line_with("worker ready on ")));
    all.workers.push(worker);
    all
}

/// A user registers, logs in, buys, looks around and logs out. Returns what that has made of
/// secrets.
fn tour(all: &Deployment, server: &str) -> Vec<Secret> {
    let user = User::new(&all.place.path("users"), USER, server);
    user.join();
    let session = std::fs::read(user.config.join("session.json")).unwrap();
    let session: serde_json::Value = serde_json::from_slice(&session).unwrap();
    assert_eq!(user.json(&["buy", SYMBOL, "3"])["state"], "filled");
    for look in [&["portfolio"][..], &["history"], &["quote", SYMBOL], &["logout"]] {
        user.run_by_memory(look).good();
    }
    let deployment = session["deployment"].as_str().unwrap();
    let hash = Password::new(PASSWORD).hashed(deployment, &USER.parse().unwrap());
    let session = session["session"].as_str().unwrap();
    let secret = |what, bytes: &[u8], is_said| Secret { what, bytes: bytes.into(), is_said };
    vec![
        secret("the user name", USER.as_bytes(), true),
        secret("the email address", format!("{USER}@example.org").as_bytes(), true),
        secret("the password", PASSWORD.as_bytes(), false),
        secret("the client's hash", hash.reveal().as_bytes(), true),
        secret("the bytes of the client's hash", &from_hex(hash.reveal()), false),
        secret("the session ID in hexadecimal digits", session.as_bytes(), true),
        secret("the session ID", &from_hex(session), true),
        secret("a symbol", SYMBOL.as_bytes(), true),
    ]
}

/// What was heard on one way of one connection.
type Stream = Arc<Mutex<Vec<u8>>>;

/// A proxy that writes down what it passes on.
struct Tap {
    address: String,
    target: Arc<OnceLock<String>>,
    streams: Arc<Mutex<Vec<Stream>>>,
}

impl Tap {
    fn new() -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tap = Tap { address, target: Arc::default(), streams: Arc::default() };
        let (target, streams) = (Arc::clone(&tap.target), Arc::clone(&tap.streams));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                // Nobody comes before there is somewhere to go.
                let Ok(far) = TcpStream::connect(target.wait()) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let stream = Stream::default();
                    streams.lock().unwrap().push(Arc::clone(&stream));
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pass_on(from, to, &stream));
                }
            }
        });
        tap
    }

    fn leads_to(&self, target: &str) {
        self.target.set(target.to_owned()).unwrap();
    }

    /// What was heard so far. What somebody has answered to was heard before.
    fn heard(&self) -> Vec<Vec<u8>> {
        self.streams.lock().unwrap().iter().map(|stream| stream.lock().unwrap().clone()).collect()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, heard: &Stream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        heard.lock().unwrap().extend(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other end may have gone already.
    let _ = to.shutdown(Shutdown::Write);
}

/// What was heard between client and worker, between worker and master, and what it was about.
fn between(plain: bool) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Vec<Secret>) {
    let (clients, link) = (Tap::new(), Tap::new());
    let place = place();
    let master = place.master_address();
    link.leads_to(&master);
    let mut all = start(place, |file| {
        edit(file, &master, &link.address);
        // As the list of workers says.
        let advertise = format!("advertise = \"{}\"", clients.address);
        edit(file, "# advertise = \"worker.example.org:2049\"", &advertise);
        if plain {
            edit(file, "#plain = false", "plain = true");
        }
    });
    clients.leads_to(&all.addresses[0]);
    let scheme = if plain { "tcp://" } else { "" };
    let secrets = tour(&all, &format!("{scheme}{}", clients.address));
    let heard = (clients.heard(), link.heard(), secrets);
    all.end();
    heard
}

#[test]
fn who_listens_on_either_link_learns_nothing() {
    let (clients, link, secrets) = between(false);
    // One connection for each command and more, one link; each has two ways.
    assert!(clients.len() >= 2 * 7 && link.len() == 2, "{} {}", clients.len(), link.len());
    for stream in clients.iter().chain(&link) {
        assert!(stream.len() > 200, "a handshake alone is longer");
        hides_all(stream, &secrets);
    }
}

#[test]
fn who_listens_to_an_explicitly_plain_worker_learns_all_but_not_on_its_link() {
    let (clients, link, secrets) = between(true);
    shows_all(&clients.concat(), &secrets);
    assert_eq!(link.len(), 2);
    link.iter().for_each(|stream| hides_all(stream, &secrets));
}

/// A `tcpdump` of the loopback.
struct Dump {
    child: Child,
    chunks: Receiver<Vec<u8>>,
    heard: Vec<u8>,
}

impl Dump {
    /// Of what goes to and comes from these ports.
    fn start(addresses: &[&str]) -> Dump {
        let port = |address: &&str| format!("tcp port {}", address.rsplit_once(':').unwrap().1);
        let filter: Vec<String> = addresses.iter().map(port).collect();
        // To its standard output: files it would write as another user.
        let mut child = Command::new("tcpdump")
            .args(["-i", "lo", "-n", "-U", "--immediate-mode", "-B", "16384", "-w", "-"])
            .arg(filter.join(" or "))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is installed");
        let mut said = BufReader::new(child.stderr.as_mut().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("listening on lo"), "tcpdump cannot capture here: {line}");
        let mut out = child.stdout.take().unwrap();
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Dump { child, chunks, heard: Vec::new() }
    }

    /// Says something to a port, and waits until it is in the capture: all that was said before
    /// is in it too, and what is said can be found in it.
    fn mark(&mut self, address: &str) {
        let mark = format!("said to {address}, for everybody to read");
        assert!(!contains(&self.heard, mark.as_bytes()));
        TcpStream::connect(address).unwrap().write_all(mark.as_bytes()).unwrap();
        while !contains(&self.heard, mark.as_bytes()) {
            let chunk = self.chunks.recv_timeout(Duration::from_secs(120));
            self.heard.extend(chunk.expect("tcpdump hears it"));
        }
    }

    /// Ends it; everything that it heard.
    fn end(mut self) -> Vec<u8> {
        signal(self.child.id(), "INT");
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        std::mem::take(&mut self.heard)
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `tcpdump` has heard of both links, and what it was about.
fn dumped(plain: bool) -> (Vec<u8>, Vec<Secret>) {
    let place = place();
    let (master, worker) = (place.master_address(), free_address());
    let mut dump = Dump::start(&[&master, &worker]);
    let mut all = start(place, |file| {
        edit(file, "listen = \"127.0.0.1:0\"", &format!("listen = \"{worker}\""));
        if plain {
            edit(file, "#plain = false", "plain = true");
        }
    });
    let scheme = if plain { "tcp://" } else { "" };
    let secrets = tour(&all, &format!("{scheme}{worker}"));
    dump.mark(&worker);
    dump.mark(&master);
    let heard = dump.end();
    all.end();
    (heard, secrets)
}

#[test]
#[ignore = "it needs tcpdump and the right to capture: ./test runs it where there are both"]
fn tcpdump_on_the_loopback_sees_nothing_and_of_a_plain_worker_all() {
    let (heard, secrets) = dumped(false);
    hides_all(&heard, &secrets);
    let (heard, secrets) = dumped(true);
    shows_all(&heard, &secrets);
}
