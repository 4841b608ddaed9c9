//! TLS to the server: what each `sslmode` accepts.

use std::net::TcpListener;

use papertrader_store::Store;
use papertrader_store::postgres::PostgresStore;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::contract::trading::Trading;
use crate::server::Server;

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn each_mode_accepts_what_it_promises() {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let server_key = KeyPair::generate().unwrap();
    let named = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = named.signed_by(&server_key, &issuer).unwrap();

    let files = tempfile::tempdir().unwrap();
    let root_file = files.path().join("root.pem");
    std::fs::write(&root_file, root.pem()).unwrap();
    let other_file = files.path().join("other.pem");
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&other_file, other.cert.pem()).unwrap();

    let port = free_port();

    let pair = (certificate.pem(), server_key.serialize_pem());
    let server = Server::start_with(Some(port), Some((&pair.0, &pair.1)));
    let name = server.database().name;
    let url =
        |host: &str, rest: &str| format!("postgresql://papertrader@{host}:{port}/{name}?{rest}");
    let (root_file, other_file) = (root_file.display(), other_file.display());
    let mut trading = Trading::new(74);
    for (host, rest) in [
        ("127.0.0.1", "sslmode=disable".to_owned()),
        ("127.0.0.1", "sslmode=prefer".to_owned()),
        ("127.0.0.1", "application_name=x".to_owned()),
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("localhost", format!("sslmode=verify-full&sslrootcert={root_file}")),
    ] {
        let mut store = PostgresStore::open(&url(host, &rest), "one")
            .unwrap_or_else(|error| panic!("{rest}: {error}"));
        store.commit(&trading.next_batch()).unwrap();
        let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                   WHERE datname = $1 AND usename = 'papertrader'";
        let rows = server.raw("postgres").query(sql, &[&name]).unwrap();
        let is_encrypted: Vec<bool> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(is_encrypted, [!rest.contains("disable")], "{rest}");
    }
    for (host, rest, words) in [
        // Not the root that vouches for it, not one of the system's, not the host it is for.
        ("localhost", format!("sslmode=verify-full&sslrootcert={other_file}"), "certificate"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root_file}"), "certificate"),
    ] {
        let error = PostgresStore::open(&url(host, &rest), "one").unwrap_err().to_string();
        assert!(error.contains(words), "{rest}: {error}");
    }
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_required() {
    let port = free_port();

    let server = Server::start_with(Some(port), None);
    let url =
        |mode: &str| format!("postgresql://papertrader@127.0.0.1:{port}/postgres?sslmode={mode}");
    for mode in ["require", "verify-full"] {
        let error = PostgresStore::open(&url(mode), "one");
        let error = match error {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{mode} is content without TLS"),
        };
        assert!(error.contains("TLS") || error.contains("root certificates"), "{mode}: {error}");
    }
    PostgresStore::open(&url("prefer"), "one").unwrap();
    drop(server);
}
