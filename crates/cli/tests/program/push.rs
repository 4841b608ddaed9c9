//! `papertrader bench push` with few workers and few prices: that it runs, and checks what it saw.

use std::process::Command;

#[test]
fn a_benchmark_of_pushes_computes_what_the_clients_saw_a_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_papertrader"));
        command.env_clear().env("TZ", "UTC").args(["bench", "push", "--dir"]);
        command.arg(dir.path()).args(arguments).output().unwrap()
    };
    let size = ["--workers", "2", "--symbols", "200", "--snapshots", "3", "--poll", "5ms"];
    let got = bench(&[&["--json"][..], &size].concat());
    assert_eq!(got.status.code(), Some(0), "{got:?}");
    let report: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
    assert!(report["checked"].as_u64() >= Some(6), "{report}");
    for from in ["from_taken_ms", "from_wire_ms"] {
        assert!(report[from]["last_worker"]["max"].as_f64() > Some(0.0), "{report}");
    }
    let bytes = report["bytes_per_change"].as_f64().unwrap();
    assert!(bytes > 1.0 && bytes < 40.0, "{report}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let few = bench(&["--symbols", "199"]);
    let said = String::from_utf8(few.stderr).unwrap();
    assert_eq!((few.status.code(), said.as_str()), (Some(2), "--symbols must be 200 to 100000\n"));
}
