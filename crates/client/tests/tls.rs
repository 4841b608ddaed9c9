//! TLS: which certificates are taken, what a refused server gets to see, and that nobody is led to
//! plain TCP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod script;

use std::collections::HashMap;
use std::time::Duration;

use papertrader_client::{
    Client, ClientError, Fingerprint, How, Learnt, Options, Password, Roots, Trust,
};
use papertrader_protocol::data::WorkerList;

use papertrader_protocol::returns::Return;
use papertrader_protocol::{Instruction, Reason, Request};
use script::certificate::{Authority, Identity};
use script::{Peer, Worker, listed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nothing is known, and no authority is believed: the test does not depend on the system's.
fn trust() -> Trust {
    Trust { roots: Roots::These(Vec::new()), ..Trust::default() }
}

fn options(trust: Trust) -> Options {
    let patience = Duration::from_secs(60);
    Options { trust, connect_patience: patience, patience, ..Options::default() }
}

/// Options that try each server once.
fn once(trust: Trust) -> Options {
    let patience = Duration::ZERO;
    Options { connect_patience: patience, patience, ..options(trust) }
}

fn knowing(worker: &Worker, fingerprint: Fingerprint) -> Trust {
    Trust { known: HashMap::from([(worker.place(), fingerprint)]), ..trust() }
}

fn learnt(server: &str, identity: &Identity, how: How) -> Learnt {
    Learnt { server: server.to_owned(), fingerprint: identity.fingerprint(), how }
}

/// Connects; the worker greets.
async fn greeted(worker: &Worker, options: Options) -> (Client, Peer) {
    let servers = [worker.address.clone()];
    let (client, peer) = tokio::join!(Client::connect(&servers, options), worker.greet());
    (client.unwrap(), peer)
}

/// Connects; the worker sees the handshake broken off and not a byte of the protocol.
async fn refused(worker: &Worker, options: Options) -> ClientError {
    let servers = [worker.address.clone()];
    let (client, broken) = tokio::join!(Client::connect(&servers, options), worker.try_accept());
    let broken = broken.err().expect("the client has finished the handshake");
    assert_eq!(broken.rest, [], "{broken:?}");
    client.unwrap_err()
}

/// What was wrong with the only server that was tried.
fn problem(error: ClientError) -> String {
    let ClientError::NoServer { tried } = error else { panic!("{error:?}") };
    assert_eq!(tried.len(), 1, "{tried:?}");
    tried[0].problem.clone()
}

/// Logs in, and gets this list.
async fn log_in(client: &Client, peer: &mut Peer, list: &WorkerList) {
    let name = "alice".parse().unwrap();
    let password = Password::new("pw");
    let (grant, ()) = tokio::join!(client.login(&name, &password, true), peer.log_in_listing(list));
    grant.unwrap();
    ping(client, peer).await;
}

/// The answer to a ping is behind the list.
async fn ping(client: &Client, peer: &mut Peer) {
    let (pong, ()) = tokio::join!(client.ping(), async {
        let asked = peer.expect(Request::Ping("ping".into())).await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
    });
    pong.unwrap();
}

#[tokio::test]
async fn the_first_use_is_learnt_and_the_second_is_not_news() {
    let identity = Identity::self_made();
    let worker = Worker::start_tls(&identity).await;
    let (client, mut peer) = greeted(&worker, options(trust())).await;
    ping(&client, &mut peer).await;
    assert_eq!(client.server(), worker.place());
    assert_eq!(client.learnt(), [learnt(&worker.place(), &identity, How::FirstUse)]);

    // The same client again, then another one that was told.
    client.close().await;
    drop(peer);
    let (pong, _peer) = tokio::join!(client.ping(), async {
        let mut peer = worker.greet().await;
        let asked = peer.next().await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
        peer
    });
    pong.unwrap();
    assert_eq!(client.learnt().len(), 1);
    let known = knowing(&worker, identity.fingerprint());
    let known = Trust { first_use: false, ..known };
    let (client, _peer) = greeted(&worker, options(known)).await;
    assert_eq!(client.learnt(), []);
}

#[tokio::test]
async fn goodbye_and_a_long_answer_go_through_tls() {
    let worker = Worker::start_tls(&Identity::self_made()).await;
    let (client, mut peer) = greeted(&worker, options(trust())).await;
    let places: Vec<String> = (1..=900).map(|port| format!("w:{port}")).collect();
    let print = Identity::self_made().fingerprint().to_string();
    let lines: Vec<(&str, &str)> =
        places.iter().map(|place| (place.as_str(), print.as_str())).collect();
    log_in(&client, &mut peer, &listed(&lines)).await;
    assert_eq!(client.listed(), places);
    client.close().await;
    assert_eq!(peer.next().await.instruction, Instruction::Goodbye);
    assert_eq!(peer.try_next().await, None);
}

#[tokio::test]
async fn a_changed_certificate_is_refused_and_sees_nothing() {
    let (old, new) = (Identity::self_made(), Identity::self_made());
    let worker = Worker::start_tls(&new).await;
    let known = knowing(&worker, old.fingerprint());
    // However much patience there is: trying again changes no certificate.
    let error = refused(&worker, options(known)).await;
    let expected = ClientError::CertificateChanged {
        server: worker.place(),
        expected: old.fingerprint(),
        seen: new.fingerprint(),
        is_listed: false,
    };
    assert_eq!(error, expected);
    let text = error.to_string();
    for part in [old.fingerprint().to_string(), new.fingerprint().to_string()] {
        assert!(text.contains(&part), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_that_changes_while_a_client_runs_is_refused() {
    let (old, new) = (Identity::self_made(), Identity::self_made());
    let mut worker = Worker::start_tls(&old).await;
    let (client, peer) = greeted(&worker, once(trust())).await;
    client.close().await;
    drop(peer);
    worker.present(&new);
    let (pong, broken) = tokio::join!(client.ping(), worker.try_accept());
    assert!(broken.is_err());
    assert!(matches!(pong, Err(ClientError::CertificateChanged { .. })), "{pong:?}");
    assert_eq!(client.learnt(), [learnt(&worker.place(), &old, How::FirstUse)]);
}

#[tokio::test]
async fn without_first_use_an_unknown_certificate_is_refused() {
    let identity = Identity::self_made();
    let worker = Worker::start_tls(&identity).await;
    let error = refused(&worker, once(Trust { first_use: false, ..trust() })).await;
    let seen = identity.fingerprint();
    assert_eq!(error, ClientError::CertificateUnknown { server: worker.place(), seen });
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let identity = Identity::self_made();
    let known = identity.fingerprint();
    let worker = Worker::start_tls(&identity.with_key_of(&Identity::self_made())).await;
    // It is the known one, but whoever shows it has only copied it.
    let error = refused(&worker, once(knowing(&worker, known))).await;
    assert!(problem(error).starts_with("TLS: "));
    let servers = worker.address.clone();
    let options = once(trust());
    let (seen, broken) =
        tokio::join!(Client::certificate_of(&servers, &options), worker.try_accept());
    assert!(broken.is_err());
    assert!(problem(seen.unwrap_err()).starts_with("TLS: "));
}

#[tokio::test]
async fn a_refused_server_is_passed_over_while_another_works() {
    let (old, new) = (Identity::self_made(), Identity::self_made());
    let (bad, good) = (Worker::start_tls(&new).await, Worker::start_tls(&new).await);
    let servers = [bad.address.clone(), good.address.clone()];
    let known = knowing(&bad, old.fingerprint());
    let (client, broken, _peer) = tokio::join!(
        Client::connect(&servers, options(known.clone())),
        bad.try_accept(),
        good.greet()
    );
    assert!(broken.is_err());
    assert_eq!(client.unwrap().server(), good.address);
    // If the other is away, the refusal is what is told.
    let gone = [bad.address.clone(), Worker::start().await.address];
    let (client, _) = tokio::join!(Client::connect(&gone, once(known)), bad.try_accept());
    assert!(matches!(client, Err(ClientError::CertificateChanged { .. })), "{client:?}");
}

#[tokio::test]
async fn the_list_tells_the_certificate_of_the_next_worker() {
    let (one, two) = (Identity::self_made(), Identity::self_made());
    let (first, second) = (Worker::start_tls(&one).await, Worker::start_tls(&two).await);
    // Nothing is taken on first use: the first is known, the second comes from the list.
    let known = Trust { first_use: false, ..knowing(&first, one.fingerprint()) };
    let (client, mut peer) = greeted(&first, options(known)).await;
    let (place, print) = (second.place(), two.fingerprint().to_string());
    log_in(&client, &mut peer, &listed(&[(&place, &print)])).await;
    assert_eq!(client.learnt(), [], "a list alone teaches nothing");
    drop((peer, first));
    let (pong, _peer) = tokio::join!(client.ping(), async {
        let mut peer = second.greet_resumed().await;
        let asked = peer.next().await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
        peer
    });
    pong.unwrap();
    assert_eq!(client.server(), second.address);
    assert_eq!(client.learnt(), [learnt(&place, &two, How::Listed)]);
}

#[tokio::test]
async fn a_list_that_an_application_has_kept_names_certificates_like_one_of_its_own() {
    let (one, two) = (Identity::self_made(), Identity::self_made());
    let (first, second) = (Worker::start_tls(&one).await, Worker::start_tls(&two).await);
    let known = knowing(&first, one.fingerprint());
    let (client, mut peer) = greeted(&first, options(known)).await;
    let place = second.place();
    log_in(&client, &mut peer, &listed(&[(&place, &two.fingerprint().to_string())])).await;
    let kept = client.listed_certificates();
    assert_eq!(kept, HashMap::from([(place.clone(), two.fingerprint())]));
    drop((client, peer, first));

    // Another process: it comes to the second worker without a list of its own.
    let later = Trust { listed: kept, first_use: false, ..trust() };
    let (client, _peer) = greeted(&second, once(later)).await;
    assert_eq!(client.learnt(), [learnt(&place, &two, How::Listed)]);
    // Somebody else at that address is no first use.
    let listed = HashMap::from([(place, one.fingerprint())]);
    let address = [second.address.clone()];
    let impostor = Client::connect(&address, once(Trust { listed, ..trust() }));
    let (client, _) = tokio::join!(impostor, second.try_accept());
    assert!(matches!(client, Err(ClientError::CertificateChanged { .. })), "{client:?}");
}

#[tokio::test]
async fn a_listed_worker_with_another_certificate_is_refused_though_nothing_is_known_of_it() {
    let (one, two) = (Identity::self_made(), Identity::self_made());
    let (first, second) = (Worker::start_tls(&one).await, Worker::start_tls(&two).await);
    let first_place = first.place();
    let (client, mut peer) = greeted(&first, once(trust())).await;
    let listed_print = Identity::self_made().fingerprint();
    log_in(&client, &mut peer, &listed(&[(&second.place(), &listed_print.to_string())])).await;
    drop((peer, first));
    let (pong, broken) = tokio::join!(client.ping(), second.try_accept());
    assert_eq!(broken.err().unwrap().rest, []);
    let expected = ClientError::CertificateChanged {
        server: second.place(),
        expected: listed_print,
        seen: two.fingerprint(),
        is_listed: false,
    };
    assert_eq!(pong, Err(expected));
    assert_eq!(client.learnt(), [learnt(&first_place, &one, How::FirstUse)]);
}

/// A worker that was taken over may write what it likes into its list.
#[tokio::test]
async fn a_list_is_not_believed_against_what_is_known() {
    let made = Identity::self_made;
    let (one, east, impostor) = (made(), made(), made());
    let first = Worker::start_tls(&one).await;
    // Where "east" is, somebody in between answers with another certificate.
    let second = Worker::start_tls(&impostor).await;
    let place = second.place();
    let known =
        HashMap::from([(first.place(), one.fingerprint()), (place.clone(), east.fingerprint())]);
    let (client, mut peer) = greeted(&first, once(Trust { known, ..trust() })).await;
    let print = impostor.fingerprint().to_string();
    log_in(&client, &mut peer, &listed(&[(&place, &print)])).await;
    drop((peer, first));
    let (pong, broken) = tokio::join!(client.ping(), second.try_accept());
    assert_eq!(broken.err().expect("the impostor is asked nothing").rest, []);
    let error = pong.unwrap_err();
    assert!(error.to_string().contains("a list of workers names what was seen"), "{error}");
    let (expected, seen) = (east.fingerprint(), impostor.fingerprint());
    let changed =
        ClientError::CertificateChanged { server: place, expected, seen, is_listed: true };
    assert_eq!(error, changed);
    assert_eq!(client.learnt(), []);
}

/// What was seen at the first visit is known from then on, in the same run too.
#[tokio::test]
async fn a_list_is_not_believed_against_what_was_met_in_this_run() {
    let (old, new) = (Identity::self_made(), Identity::self_made());
    let mut worker = Worker::start_tls(&old).await;
    let (client, mut peer) = greeted(&worker, once(trust())).await;
    let (place, print) = (worker.place(), new.fingerprint().to_string());
    log_in(&client, &mut peer, &listed(&[(&place, &print)])).await;
    drop(peer);
    worker.present(&new);
    let (pong, broken) = tokio::join!(client.ping(), worker.try_accept());
    assert_eq!(broken.err().expect("the impostor is asked nothing").rest, []);
    assert!(
        matches!(pong, Err(ClientError::CertificateChanged { is_listed: true, .. })),
        "{pong:?}"
    );
    assert_eq!(client.learnt(), [learnt(&place, &old, How::FirstUse)]);
}

#[tokio::test]
async fn a_list_over_tls_leads_nobody_to_plain_tcp() {
    let first = Worker::start_tls(&Identity::self_made()).await;
    let plain = Worker::start().await;
    let (client, mut peer) = greeted(&first, once(trust())).await;
    let place = plain.place();
    log_in(&client, &mut peer, &listed(&[(&place, "")])).await;
    assert_eq!(client.listed(), Vec::<String>::new());
    assert_eq!(client.servers(), std::slice::from_ref(&first.address));
    drop((peer, first));
    let pong = client.ping().await;
    assert!(matches!(pong, Err(ClientError::NoServer { .. })), "{pong:?}");
    plain.expect_no_more();
}

#[tokio::test]
async fn a_list_over_plain_tcp_may_lead_to_both_and_teaches_nothing() {
    let identity = Identity::self_made();
    let (first, second) = (Worker::start().await, Worker::start_tls(&identity).await);
    let other = Identity::self_made().fingerprint().to_string();
    let (client, mut peer) = greeted(&first, once(trust())).await;
    let (here, there) = (first.place(), second.place());
    let print = identity.fingerprint().to_string();
    let list = listed(&[(&here, ""), (&there, &print)]);
    log_in(&client, &mut peer, &list).await;
    assert_eq!(client.listed(), [first.address.clone(), there.clone()]);
    drop((peer, first));
    let (pong, _peer) = tokio::join!(client.ping(), async {
        let mut peer = second.greet_resumed().await;
        // Nor does what such a worker says in its turn.
        peer.raw(&script::list_frames(0, &listed(&[("elsewhere:1", &other)]))).await;
        let asked = peer.next().await;
        peer.answer(&asked, Return::Pong("ping".into())).await;
        peer
    });
    pong.unwrap();
    assert_eq!(client.listed(), ["elsewhere:1"]);
    assert_eq!(client.learnt(), []);
}

#[tokio::test]
async fn a_certificate_that_an_authority_vouches_for_needs_no_first_use() {
    let authority = Authority::new();
    let believed = |known| Trust {
        known,
        first_use: false,
        roots: Roots::These(vec![authority.root()]),
        ..trust()
    };
    let valid = authority.vouch_for("127.0.0.1");
    let mut worker = Worker::start_tls(&valid).await;
    let (client, _peer) = greeted(&worker, options(believed(HashMap::new()))).await;
    assert_eq!(client.learnt(), [learnt(&worker.place(), &valid, How::Authority)]);
    // It takes the place of another one that was known: it was renewed.
    let before = HashMap::from([(worker.place(), Identity::self_made().fingerprint())]);
    let (client, _peer) = greeted(&worker, options(believed(before))).await;
    assert_eq!(client.learnt(), [learnt(&worker.place(), &valid, How::Authority)]);
    // For another host it says nothing, nor does another authority.
    worker.present(&authority.vouch_for("trade.example.org"));
    let error = refused(&worker, once(believed(HashMap::new()))).await;
    assert!(matches!(error, ClientError::CertificateUnknown { .. }), "{error:?}");
    worker.present(&Authority::new().vouch_for("127.0.0.1"));
    let error = refused(&worker, once(believed(HashMap::new()))).await;
    assert!(matches!(error, ClientError::CertificateUnknown { .. }), "{error:?}");
    // Once an authority has vouched, a self-made one is no first use any more.
    worker.present(&Identity::self_made());
    let known = HashMap::from([(worker.place(), valid.fingerprint())]);
    let error = refused(&worker, once(Trust { first_use: true, ..believed(known) })).await;
    assert!(matches!(error, ClientError::CertificateChanged { .. }), "{error:?}");
}

#[tokio::test]
async fn the_certificate_can_be_looked_at_without_being_taken() {
    let identity = Identity::self_made();
    let worker = Worker::start_tls(&identity).await;
    // What is known does not matter, and nothing is sent.
    let options = once(knowing(&worker, Identity::self_made().fingerprint()));
    let address = worker.address.clone();
    let (seen, rest) = tokio::join!(Client::certificate_of(&address, &options), async {
        let mut stream = worker.accept_tls().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    });
    assert_eq!(seen, Ok(identity.fingerprint()));
    assert_eq!(rest, []);
    let plain = Client::certificate_of("tcp://127.0.0.1:1", &options).await.unwrap_err();
    assert_eq!(problem(plain), "plain TCP has no certificates");
}

#[tokio::test]
async fn a_server_that_speaks_other_protocols_inside_tls_is_named() {
    let worker = Worker::start_tls(&Identity::self_made().speaking(&["http/1.1"])).await;
    let servers = [worker.address.clone()];
    let (client, broken) =
        tokio::join!(Client::connect(&servers, once(trust())), worker.try_accept());
    assert!(broken.is_err());
    let said = problem(client.unwrap_err());
    assert_eq!(said, "it speaks TLS, but not the protocol of PaperTrader");
    let worker = Worker::start_tls(&Identity::self_made().speaking(&["papertrader/1"])).await;
    greeted(&worker, once(trust())).await;
}

/// Answers the first bytes of a client with these, and returns what the client has sent.
async fn answering(worker: &Worker, answer: &[u8]) -> Vec<u8> {
    let mut stream = worker.accept_tcp().await;
    let mut asked = vec![0; 5];
    stream.read_exact(&mut asked).await.unwrap();
    let length = usize::from(u16::from_be_bytes([asked[3], asked[4]]));
    asked.resize(5 + length, 0);
    stream.read_exact(&mut asked[5..]).await.unwrap();
    stream.write_all(answer).await.unwrap();
    stream.shutdown().await.unwrap();
    // It may be cut off.
    let _ = stream.read_to_end(&mut asked).await;
    asked
}

#[tokio::test]
async fn an_old_tls_is_refused() {
    // An alert `protocol_version`, and a `serverHello` of TLS 1.2 with
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256.
    let alert = [0x15, 3, 3, 0, 2, 2, 70].to_vec();
    let mut hello = vec![0x16, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x2b, 0]);
    assert_eq!(hello.len(), 5 + 42);
    for answer in [alert, hello] {
        let worker = Worker::start().await;
        let servers = [worker.place()];
        let (client, asked) =
            tokio::join!(Client::connect(&servers, once(trust())), answering(&worker, &answer));
        assert_eq!(
            problem(client.unwrap_err()),
            "it does not speak TLS 1.3, and nothing older is taken"
        );
        assert_eq!(asked[0], 0x16, "a handshake is all that it has seen");
    }
}

#[tokio::test]
async fn tls_to_a_plain_server_says_what_to_do() {
    let mut refusal = Vec::new();
    Return::Failed(Instruction::CommandFail, Reason::BadFrame.into()).put(0, &mut refusal);
    let plain = "it does not speak TLS: if the operator chose plain TCP, say ";
    for (answer, said, names_address) in [
        (refusal, plain, true),
        (Vec::new(), "it closed the connection: it takes no clients just now", false),
    ] {
        let worker = Worker::start().await;
        let servers = [worker.place()];
        let (client, _) =
            tokio::join!(Client::connect(&servers, once(trust())), answering(&worker, &answer));
        let address = &worker.address;
        assert_eq!(
            problem(client.unwrap_err()),
            format!("{said}{}", if names_address { address.as_str() } else { "" })
        );
    }
}

#[tokio::test]
async fn plain_tcp_to_a_tls_server_says_what_to_do() {
    let worker = Worker::start_tls(&Identity::self_made()).await;
    let servers = [format!("tcp://{}", worker.place())];
    let (client, broken) =
        tokio::join!(Client::connect(&servers, once(trust())), worker.try_accept());
    assert!(broken.is_err());
    assert_eq!(problem(client.unwrap_err()), "it speaks TLS: leave out tcp://");
}

#[tokio::test]
async fn a_handshake_that_hangs_has_its_end() {
    let worker = Worker::start().await;
    let short = Options { connect_timeout: Duration::from_millis(50), ..once(trust()) };
    let servers = [worker.place()];
    let (client, _stream) =
        tokio::join!(Client::connect(&servers, short.clone()), worker.accept_tcp());
    assert_eq!(problem(client.unwrap_err()), "the TLS handshake does not end in time");
    let (seen, _stream) =
        tokio::join!(Client::certificate_of(&servers[0], &short), worker.accept_tcp());
    assert_eq!(problem(seen.unwrap_err()), "no answer in time");
}

#[tokio::test]
async fn what_is_no_address_is_named() {
    for bad in ["127.0.0.1", "tls://h:1", ""] {
        let error = Client::connect(&[bad.to_owned()], once(trust())).await.unwrap_err();
        let ClientError::Address { address, .. } = &error else { panic!("{error:?}") };
        assert_eq!(address, bad);
    }
}
